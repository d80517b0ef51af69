"""Dispatch: choose the backend of every operation, or force one (`RMT_BACKEND`, `use_backend`).

Float64 is served by the last column. The kernels serve float32, bfloat16 and float16.

| operation | reference implementation | CPU | CUDA | otherwise |
|---|---|---|---|---|
| `manhattan_attention` | `masa.manhattan_attention` | `native` | `triton` | `blockwise` (many scores), `plain` |
| `depthwise_conv` | `masa.depthwise_conv` | `native` | `triton` | `plain` |
| `LayerNorm`, `layer_norm`, `add_layer_norm` | `torch.nn`'s | `native`, inference or 16 bits | `triton` | PyTorch's |
| `Linear`, `linear` | `torch.nn`'s | `native` (oneDNN), not 16-bit training | `torch/linear.py`, training | PyTorch's |

`plain` is the reference implementation. A backend's `unusable(call)` returns why it cannot serve a call, or None.
Exported programs use `plain` only, and so do `torch.func` (vmap, grad, jvp, …) and forward-mode differentiation. The
backward passes of the kernels use it where a gradient is to be differentiated again (`create_graph=True`), see
`second_order.py`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.ops import masa
from rmt.ops.call import Call, needs_grad, result_dtype, tracing
from rmt.ops.cpu import backend as cpu
from rmt.ops.masa import MaSAConfig, SpatialPrior
from rmt.ops.torch import blockwise, flex, sdpa
from rmt.ops.torch.linear import linear_with_gradients
from rmt.ops.triton import backend as triton

#: Name of an implementation of attention, as `use_backend` and `RMT_BACKEND` take it -> its function.
BACKENDS: dict[str, Callable[..., Tensor]] = {"plain": masa.manhattan_attention}
_UNUSABLE: dict[str, Callable[[Call], str | None]] = {}
_DEPTHWISE = {"plain": masa.depthwise_conv, "native": cpu.depthwise_conv, "triton": triton.depthwise_conv}
KERNELS = {"cpu": "native", "cuda": "triton"}  # type of device: the backend with kernels of our own
_KERNEL_BACKENDS = tuple(KERNELS.values())
# Attention scores of a call beyond which `blockwise` serves instead of `plain`: 64 Mi are 256 MiB in float32.
MAX_SCORES = 64 * 2**20

_forced = os.environ.get("RMT_BACKEND") or None


def register_backend(
    name: str, manhattan_attention: Callable[..., Tensor], unusable: Callable[[Call], str | None]
) -> None:
    """Add an implementation of attention, which `use_backend` and `RMT_BACKEND` can then force.

    Args:
        name: a name that `BACKENDS` does not have.
        manhattan_attention: computes (B, h, w, n, d) from the arguments of `rmt.ops.manhattan_attention`.
        unusable: returns why the implementation cannot serve a call, or None if it can.
    Raises:
        RMTError: there is a backend of this name.
    """
    if name in BACKENDS:
        raise RMTError(f"register_backend: there is a backend {name!r}; choose another name")
    BACKENDS[name], _UNUSABLE[name] = manhattan_attention, unusable


for _name, _module in dict(sdpa=sdpa, flex=flex, blockwise=blockwise, native=cpu, triton=triton).items():
    register_backend(_name, _module.manhattan_attention, _module.unusable)


@contextlib.contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Force an implementation of attention inside the context, as `RMT_BACKEND` does for a process.

    Args:
        name: one of `BACKENDS`; None for the automatic choice.

    A call inside the context raises RMTError, with the reason, if this implementation cannot serve it.
    """
    global _forced
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def choose(call: Call) -> str:
    """Return the name of the backend that serves a call.

    A forced backend must be able to serve attention. Other operations use it where it can serve them, else `plain`.

    Raises:
        RMTError: `RMT_BACKEND` (or `use_backend`) names an unknown backend, or one that cannot serve this attention.
    """
    if call.device == "meta" or (call.tracing == "func" and _forced is None):  # only shapes, or transforms: see `call`
        return "plain"
    if _forced is not None and call.op == "attention":
        _check_forced(_forced, call)
        return _forced
    if call.tracing == "export":
        return "plain"
    kernels = _kernel_backend(call.device)
    if kernels in _KERNEL_BACKENDS and _unusable(kernels, call) is None:
        return kernels
    # _unusable first: comparing a symbolic size with a number would specialise the graph on it.
    if call.op == "attention" and _unusable("blockwise", call) is None and _scores(call) > MAX_SCORES:
        return "blockwise"
    return "plain"


def _kernel_backend(device: str) -> str:
    """The forced backend, else the kernel backend of this device type; "plain" if there is none."""
    return _forced or KERNELS.get(device, "plain")


def _unusable(name: str, call: Call) -> str | None:
    """Return why a backend cannot serve a call, or None."""
    if name == "plain":
        return None
    if call.tracing == "func":
        return "torch.func and forward-mode differentiation have no rules for it; plain works with both"
    if call.config is not None and len(set(call.dtypes)) > 1:
        return "q, k and v have several dtypes; plain takes them"
    if call.config is not None and name != "blockwise":
        if not call.config.softmax:
            return "it has no attention without softmax; plain and blockwise have"
        if call.config.decay == "paper":
            return "it has no decay after the softmax; plain and blockwise have"
    return _UNUSABLE[name](call)


def _check_forced(name: str, call: Call) -> None:
    if name not in BACKENDS:
        raise RMTError(f"RMT_BACKEND={name}: there is no such backend; choose one of {', '.join(BACKENDS)}")
    reason = _unusable(name, call)
    if reason is not None:
        raise RMTError(f"RMT_BACKEND={name} cannot be used here: {reason}")


def _scores(call: Call) -> int:
    batch, height, width, heads, _ = call.shape
    keys = max(height, width) if call.config is not None and call.config.decomposed else height * width
    return batch * heads * height * width * keys


def manhattan_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """Manhattan Self-Attention over a grid of tokens, by the implementation for this device, dtype and size.

    Args:
        q: queries before their rotation, (B, h, w, n, d), any strides.
        k: keys before their rotation, (B, h, w, n, d), any strides.
        v: values, (B, h, w, n, d), any strides.
        prior: of the h × w grid.
        config: which attention.
    Returns:
        (B, h, w, n, d), in the dtype of v.
    Raises:
        RMTError: the backend that was forced cannot serve the call.
    """
    grad = needs_grad(q, k, v)
    dtypes = (q.dtype, k.dtype, v.dtype)
    call = Call("attention", q.device.type, dtypes, q.shape, grad, tracing(q), config, q.stride(0))
    return BACKENDS[choose(call)](q, k, v, prior, config)


def depthwise_conv(
    x: Tensor,
    conv: nn.Conv2d,
    *,
    residual: bool = False,
    plus: Tensor | None = None,
    gelu: bool = False,
    shift: Tensor | None = None,
) -> Tensor:
    """conv(y), plus y if `residual`, plus `plus` if given; y = x, or GELU(x + shift) with `gelu`.

    Equal to `masa.depthwise_conv` to 1e-5 of the largest value in float32, for tokens x and `plus` (B, h, w, C) and
    `shift` (C,). Our kernels add in the same pass and read views without a copy; on a CPU their backward pass is
    several times faster than PyTorch's. Under autocast a tensor that is added keeps its precision.
    """
    call = _depthwise_call(x, conv)
    backend = choose(call)
    if gelu and not call.needs_grad and backend != "native":
        # Computed here, so that x is freed before the convolution unless the caller keeps it.
        x, gelu, shift = F.gelu(x if shift is None else x + shift), False, None
    function = _DEPTHWISE[backend]
    return function(x, conv, residual=residual, plus=plus, gelu=gelu, shift=shift)


def fuses_gelu(x: Tensor, conv: nn.Conv2d) -> bool:
    """Whether `depthwise_conv(x, conv, gelu=True, shift=…)` applies both inside its kernel: on a CPU, for inference."""
    call = _depthwise_call(x, conv)
    return not call.needs_grad and choose(call) == "native"


def _depthwise_call(x: Tensor, conv: nn.Conv2d) -> Call:
    weight, size = conv.weight, conv.kernel_size[0]
    dtypes, grad = (x.dtype, weight.dtype, result_dtype(x)), needs_grad(x, weight)
    stride = x.stride(0)
    return Call("depthwise", x.device.type, dtypes, x.shape, grad, tracing(x), image_stride=stride, kernel_size=size)


def layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-6) -> Tensor:
    """LayerNorm of x (…, C) over the last dimension, with scale and shift (C,) or without both."""
    backend = _layer_norm_backend(x, weight, bias)
    if backend == "triton":
        return triton.layer_norm(x, weight, bias, eps, result_dtype(x))
    if backend == "native":
        return cpu.layer_norm(x, weight, bias, eps, result_dtype(x))
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def add_layer_norm(x: Tensor, y: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """The sum x + y, and the LayerNorm of the sum without scale and shift; all are (…, C).

    If no gradients are needed, our kernels compute both in one pass.
    """
    if x.dtype == y.dtype and not needs_grad(y):
        backend = _layer_norm_backend(x, None, None)
        if backend == "native":
            return cpu.add_layer_norm(x, y, eps, result_dtype(x))
        if backend == "triton":
            return triton.add_layer_norm(x, y, eps, result_dtype(x))
    x = x + y
    return x, layer_norm(x, eps=eps)


def _layer_norm_backend(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> str:
    device = x.device.type
    if _kernel_backend(device) not in _KERNEL_BACKENDS:  # checked first: building a Call costs some microseconds
        return "plain"
    grad, affine = needs_grad(x, weight, bias), weight is not None
    return choose(Call("layer_norm", device, (x.dtype, result_dtype(x)), x.shape, grad, tracing(x), affine=affine))


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the channels, (…, C) to (…, C).

    Under autocast both compute in float32. Where our kernels are used, the input is read and the output written in
    their own dtypes; PyTorch's makes float32 copies, and keeps the one of the input for the backward pass.
    """

    def forward(self, x: Tensor) -> Tensor:
        """LayerNorm of x (…, C), in the dtype of x, or in autocast's."""
        return layer_norm(x, self.weight, self.bias, self.eps)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x·Wᵀ + b: x (…, C), weight (C', C), bias (C',) or None."""
    backend = _linear_backend(x, weight, bias)
    if backend == "triton":
        return linear_with_gradients(x, weight, bias, result_dtype(x))
    if backend == "native" and needs_grad(x, weight, bias):
        return linear_with_gradients(x, weight, bias, x.dtype, cpu.linear)
    if backend == "native":
        return cpu.linear(x, weight, bias)
    return F.linear(x, weight, bias)


def _linear_backend(x: Tensor, weight: Tensor, bias: Tensor | None) -> str:
    device = x.device.type
    backend = _kernel_backend(device)
    grad = needs_grad(x, weight, bias)
    if backend not in _KERNEL_BACKENDS or (backend == "triton" and not needs_grad(bias)):
        return "plain"
    return choose(Call("linear", device, (x.dtype, weight.dtype, result_dtype(x)), x.shape, grad, tracing(x)))


class Linear(nn.Linear):
    """`nn.Linear`, (…, C) to (…, C'). A faster function is used on some CPUs, and in training on GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """x·Wᵀ + b, (…, C')."""
        return linear(x, self.weight, self.bias)
