"""Build the network of a case, and the function that runs one step of it."""

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import timm
import torch
from timm.utils import reparameterize_model
from torch import nn

from rmt.benchmark.cases import RUNTIMES, Case, Options
from rmt.benchmark.runtimes import runtime_step
from rmt.benchmark.timing import TORCH_DTYPES, cuda_graph
from rmt.errors import RMTError
from rmt.model import create_model, deploy, list_models
from rmt.ops import use_backend


def require_network(name: str) -> None:
    """Raise RMTError unless rmt or timm has a network of this name."""
    if name not in list_models() and not timm.is_model(name):
        raise RMTError(f"no network named {name!r} in rmt or timm {timm.__version__}")


def build_model(name: str, size: tuple[int, int], seed: int) -> nn.Module:
    """Build a network with random weights and no stochastic depth."""
    torch.manual_seed(seed)
    if name in list_models():
        return create_model(name, drop_path_rate=0.0)
    cfg = timm.get_pretrained_cfg(name)
    sized = dict(img_size=size) if cfg is None or tuple(cfg.input_size[1:]) != size else {}
    for options in (dict(drop_path_rate=0.0) | sized, sized, dict(drop_path_rate=0.0)):
        with suppress(TypeError):  # not every network takes them
            return timm.create_model(name, num_classes=1000, **options)  # some have ImageNet-22k's by default
    return timm.create_model(name, num_classes=1000)


def build_step(case: Case, options: Options) -> Callable[[], object]:
    """Return a function that runs the case once. Its first call may compile.

    Raises:
        RMTError: a missing package or, when called, a backend that does not support the case.
    """
    model, x = _model_and_images(case, options)
    if case.mode in RUNTIMES:
        return runtime_step(case.mode, model, x)
    run = torch.compile(model, dynamic=False) if "compile" in case.mode else model
    labels = torch.arange(case.batch, device=x.device) % 1000
    backend = None if case.backend == "auto" else case.backend
    autocast = torch.autocast(x.device.type, torch.bfloat16, enabled=case.dtype == "autocast")

    def forward() -> None:
        with use_backend(backend), autocast, torch.no_grad():
            run(x)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with use_backend(backend), autocast:
            loss = nn.functional.cross_entropy(run(x).float(), labels)
        loss.backward()

    step = forward if case.step == "forward" else train
    return cuda_graph(step) if case.mode.endswith("+graph") else step


def output_error(case: Case, options: Options) -> float:
    """Return ‖o − e‖ / ‖e‖ for the logits o with the case's windows and the exact ones e, with random weights."""
    exact = _exact_logits(replace(case, tolerance=0.0), options)
    return ((_logits(case, options) - exact).norm() / exact.norm()).item()


def _logits(case: Case, options: Options) -> torch.Tensor:
    model, x = _model_and_images(case, options)
    with torch.no_grad():
        return model(x).cpu().double()  # MPS has no float64


_exact_logits = functools.lru_cache(maxsize=1)(_logits)  # the cases of one size follow each other


def _model_and_images(case: Case, options: Options) -> tuple[nn.Module, torch.Tensor]:
    device = torch.device(options.device)
    model = build_model(case.model, (case.image_size, case.image_width), options.seed)
    model = model.train() if case.step == "train" else model.eval()
    deployed = case.mode.startswith("deploy") or (case.mode in RUNTIMES and case.model in list_models())
    if deployed:
        model = deploy(model, tolerance=case.tolerance)
    elif case.step == "forward" and case.model not in list_models():
        model = reparameterize_model(model, inplace=True)  # as RepViT and FastViT are used; others stay as they are
    layout = torch.channels_last if options.memory_format == "channels_last" else torch.contiguous_format
    x = torch.randn(case.batch, 3, case.image_size, case.image_width, generator=torch.Generator().manual_seed(0))
    dtype = TORCH_DTYPES.get(case.dtype, torch.float32)
    if not deployed:  # the deployed form has its own layout
        model = model.to(memory_format=layout)
    return model.to(device, dtype), x.to(device, dtype).contiguous(memory_format=layout)
