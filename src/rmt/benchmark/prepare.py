"""Build the function that runs a case, and other things to measure."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

from rmt.benchmark.cases import Case, Options
from rmt.errors import RMTError
from rmt.model import create_model, deploy, list_models
from rmt.ops import use_backend

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def build(name: str, size: tuple[int, int], seed: int) -> nn.Module:
    """Build a network with random weights and no stochastic depth. Raises RMTError for an unknown name."""
    torch.manual_seed(seed)
    if name in list_models():
        return create_model(name, drop_path_rate=0.0)
    if name not in timm.list_models():
        raise RMTError(f"neither we nor timm {timm.__version__} have a network named {name!r}")
    if size == (224, 224):
        return timm.create_model(name, drop_path_rate=0.0)
    try:  # networks with windows or position embeddings of a fixed size
        return timm.create_model(name, drop_path_rate=0.0, img_size=size)
    except TypeError:
        return timm.create_model(name, drop_path_rate=0.0)


def prepare(case: Case, options: Options) -> Callable[[], None]:
    """Return a function that runs the case once. Its first call may compile.

    Raises:
        RMTError: an unknown network or, when called, a backend that does not support the case.
    """
    model, x = _model_and_images(case, options)
    device = x.device
    run = torch.compile(model, dynamic=False) if "compile" in case.mode else model
    labels = torch.arange(case.batch, device=device) % 1000

    @contextlib.contextmanager
    def context():
        with (
            use_backend(None if case.backend == "auto" else case.backend),
            torch.autocast(device.type, torch.bfloat16, enabled=case.dtype == "autocast"),
        ):
            yield

    def forward() -> None:
        with context(), torch.no_grad():
            run(x)

    def train() -> None:
        model.zero_grad(set_to_none=True)
        with context():
            loss = nn.functional.cross_entropy(run(x).float(), labels)
        loss.backward()

    function = forward if case.step == "forward" else train
    return captured(function) if case.mode.endswith("+graph") else function


def output_error(case: Case, options: Options) -> float:
    """Return ‖o − e‖ / ‖e‖ for the logits o with the case's windows and the exact ones e, with random weights."""
    exact = _logits(replace(case, tolerance=0.0), options)
    return ((_logits(case, options) - exact).norm() / exact.norm()).item()


def _logits(case: Case, options: Options) -> torch.Tensor:
    key = (case, options.device, options.seed)
    if key not in _exact:
        model, x = _model_and_images(case, options)
        with torch.no_grad():
            found = model(x).double().cpu()
        if case.tolerance:
            return found
        _exact.clear()  # those of another size
        _exact[key] = found
    return _exact[key]


_exact: dict[Any, torch.Tensor] = {}


def _model_and_images(case: Case, options: Options) -> tuple[nn.Module, torch.Tensor]:
    device = torch.device(options.device)
    model = build(case.model, (case.image_size, case.image_width), options.seed)
    model = model.train() if case.step == "train" else model.eval()
    if case.mode.startswith("deploy"):
        model = deploy(model, tolerance=case.tolerance)
    layout = torch.channels_last if options.memory_format == "channels_last" else torch.contiguous_format
    x = torch.randn(case.batch, 3, case.image_size, case.image_width, generator=torch.Generator().manual_seed(0))
    dtype = TORCH_DTYPES.get(case.dtype, torch.float32)
    if not case.mode.startswith("deploy"):  # the deployed form has its own layout
        model = model.to(memory_format=layout)
    return model.to(device, dtype), x.to(device, dtype).contiguous(memory_format=layout)


def captured(function: Callable[[], None]) -> Callable[[], None]:
    """Return a function that replays `function` as a CUDA graph: the host launches all its kernels at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the first calls allocate and compile
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()

    def replay() -> None:
        graph.replay()
        _ = function  # keeps the tensors alive that the graph reads

    return replay


def matrix_product(dtype: str, device: str) -> tuple[Callable[[], None], int]:
    """Return a function for a large matrix product, whose rate is the machine's peak, and its number of operations."""
    side = 8192 if device.startswith("cuda") else 2048
    kind = TORCH_DTYPES.get(dtype, torch.bfloat16)
    a, b = (torch.randn(side, side).to(device, kind) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        torch.mm(a, b, out=out)

    return run, 2 * side**3


class PeakMemory:
    """Context manager that measures the peak memory of a block over what is in use when it starts.

    On CUDA it asks the allocator, on Linux it uses the peak resident set of the process. `bytes` is None if neither is
    available.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.bytes: int | None = None
        self.before: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            self.before = _resident("VmRSS")
        return self

    def __exit__(self, *exc) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - (self.before or 0)
        elif self.before is not None and (after := _resident("VmHWM")) is not None:
            self.bytes = max(0, after - self.before)


def _resident(field: str) -> int | None:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None
