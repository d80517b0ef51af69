"""The one rule by which a backend is picked, and the means to force one."""

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor

from rmt.errors import RMTError
from rmt.ops import cpu as native
from rmt.ops import plain, triton
from rmt.ops.decay import SpatialPrior
from rmt.ops.form import Form, being_exported
from rmt.ops.torch import blockwise, flex, sdpa

BACKENDS: dict[str, ModuleType] = {
    "plain": plain,
    "sdpa": sdpa,
    "flex": flex,
    "blockwise": blockwise,
    "native": native,
    "triton": triton,
}
# Scores of a call beyond which `plain` gives way to `blockwise`: 64 Mi scores are 256 MiB in float32.
MAX_SCORES = 64 * 2**20

_forced = os.environ.get("RMT_BACKEND") or None


def attend(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """As `plain.attend`, by the backend that suits device, dtype, size and whether gradients are needed.

    Raises:
        RMTError: `RMT_BACKEND` (or `use_backend`) names an unknown backend, or one that cannot serve this call.
    """
    needs_grad = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    name = _choose(q, form, needs_grad) if _forced is None else _forced
    if _forced is not None:
        _check(_forced, q, form, needs_grad)
    return BACKENDS[name].attend(q, k, v, prior, form)


def _choose(q: Tensor, form: Form, needs_grad: bool) -> str:
    """`native` on a CPU and `triton` on CUDA wherever they can serve; else `plain` or, for many scores, `blockwise`.

    An exported program is to run anywhere, so that it gets neither. `sdpa` and `flex` have to be forced.
    """
    if native.unusable(q, form, needs_grad) is None:
        return "native"
    if q.device.type == "cuda" and triton.unusable(q, form, needs_grad) is None and not being_exported():
        return "triton"
    batch, height, width, heads, _ = q.shape
    scores = batch * heads * height * width * (max(height, width) if form.decomposed else height * width)
    # A symbolic size would specialise the graph; what is being captured is for sizes like the example's.
    if scores > MAX_SCORES and blockwise.unusable(q, form, needs_grad) is None:
        return "blockwise"
    return "plain"


def _check(name: str, q: Tensor, form: Form, needs_grad: bool) -> None:
    if name not in BACKENDS:
        raise RMTError(f"RMT_BACKEND={name}: there is no such backend; choose one of {', '.join(BACKENDS)}")
    reason = BACKENDS[name].unusable(q, form, needs_grad)
    if reason is not None:
        raise RMTError(f"RMT_BACKEND={name} cannot be used here: {reason}")


def allows(name: str) -> bool:
    """Whether the kernels of a backend may be used: always, unless another backend is forced."""
    return _forced is None or _forced == name


def takes_triton(x: Tensor) -> bool:
    """Whether Triton's kernels beside attention (depthwise convolutions, norms) are to be used on x."""
    on_gpu = x.device.type == "cuda" and allows("triton")
    in_test = _forced == "triton" and triton.interpreted()
    return (on_gpu or in_test) and x.dtype in triton.DTYPES and triton.why_not() is None


def result_dtype(x: Tensor) -> torch.dtype:
    """What a matrix product of x is computed in: autocast's dtype, or its own."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Force a backend for the calls inside, as `RMT_BACKEND` does for a process; None leaves the choice to the rule."""
    global _forced
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before
