"""The calls of Triton kernels that `kernels.py` measures: those of RMT-S, forward and backward."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rmt.ops import (
    BACKENDS,
    LayerNorm,
    MaSAConfig,
    SpatialPrior,
    add_layer_norm,
    depthwise_conv,
    masa,
    spatial_prior,
    use_backend,
)

DECAY_RANGE = (2.0, 6.0)
_plain = use_backend("plain")  # decorates a function: the same in plain PyTorch
Grid = tuple[int, int, int]  # images, height, width


class Problem(NamedTuple):
    """One call of a kernel, and what it costs per element of its first input."""

    name: str
    ours: Callable[..., Any]
    reference: Callable[..., Any]  # in PyTorch, for any dtype
    inputs: tuple[tuple[int, ...], ...]  # shapes
    tensors: int  # read and written, each of the size of an input
    operations_per_element: int

    def bytes(self, dtype: torch.dtype) -> int:
        return self.tensors * math.prod(self.inputs[0]) * dtype.itemsize

    @property
    def operations(self) -> int:
        return self.operations_per_element * math.prod(self.inputs[0])


def problems(batch: int) -> Iterator[Problem]:
    """Yield the calls of RMT-S at 224², stage by stage, and attention at 800 × 1333."""
    for side, heads, channels in ((56, 4, 16), (28, 4, 32), (14, 8, 32)):
        yield from row_pass((batch, side, side), heads, channels)
        yield from attention((batch, side, side), heads, channels)
    yield from attention((batch, 7, 7), 16, 32, decomposed=False)
    for height, width, heads, channels in ((200, 334, 4, 16), (100, 167, 4, 32), (50, 84, 8, 32)):
        yield from attention((2, height, width), heads, channels)
    yield from attention((2, 25, 42), 16, 32, decomposed=False)
    for side, channels, size in ((56, 64, 5), (56, 256, 3), (28, 128, 5), (28, 512, 3), (14, 256, 5), (14, 768, 3)):
        yield from convolution((batch, side, side), channels, size)
    for side, channels, ratio in ((56, 64, 4), (28, 128, 4), (14, 256, 3), (7, 512, 3)):
        yield from feed_forward((batch, side, side), ratio * channels)
        yield from layer_norm((batch, side, side), channels)


def attention(grid: Grid, heads: int, channels: int, *, decomposed: bool = True) -> Iterator[Problem]:
    """Attention, decomposed or full."""
    config = _config(channels, decomposed)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return BACKENDS["triton"](q, k, v, _prior(q, config), config)

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masa.manhattan_attention(q, k, v, _prior(q, config), config)

    def backward(q: Tensor, k: Tensor, v: Tensor, dout: Tensor):
        prior = _prior(q, config)
        rest = (prior.cos, prior.sin, prior.log_gamma, config.decomposed, config.half_split, True, config.scale)
        return _operators().triton_attention_backward(dout, q, k, v, *rest)

    name, (_, height, width) = "rows and columns" if decomposed else "all pairs", grid
    keys = height + width if decomposed else height * width
    return _forward_and_backward(name, (*grid, heads, channels), keys, forward, backward, reference)


def row_pass(grid: Grid, heads: int, channels: int) -> Iterator[Problem]:
    """The first half of decomposed attention, along rows."""
    config = _config(channels, decomposed=True)

    def kernel(q: Tensor):
        from rmt.ops.triton.attention_ops import Attention

        prior = _prior(q, config)
        tables = (prior.cos, prior.sin, prior.log_gamma)
        return Attention(q, tables, None, config.half_split, True, config.scale)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return kernel(q).forward(q, k, v, "rows")[0]

    def backward(q: Tensor, k: Tensor, v: Tensor, dout: Tensor):
        gradients = tuple(torch.empty_like(t) for t in (q, k, v))
        kernel(q).backward((q, k, v, dout), (v, v), gradients, "rows", add=False)
        return gradients

    def reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        prior = _prior(q, config)
        q, k = masa.rotate_queries_and_keys(q, k, prior, config)
        return masa.attend_along_width(q, k, v, prior.log_decay_w, config)

    return _forward_and_backward("rows", (*grid, heads, channels), grid[2], forward, backward, reference)


def _forward_and_backward(name: str, shape, keys: int, forward, backward, reference) -> Iterator[Problem]:
    """Forward reads q, k, v, writes one tensor, computes 2 products; backward reads four, writes three, computes 5."""
    label = f"{name} of {_size(shape[:3])}, {shape[3]} heads of {shape[4]}"
    yield Problem(f"{label}, forward", forward, reference, (shape,) * 3, 4, 4 * keys)
    yield Problem(f"{label}, backward", backward, _gradients(reference), (shape,) * 4, 7, 10 * keys)


def convolution(grid: Grid, channels: int, size: int) -> Iterator[Problem]:
    """x + conv(x), and the gradients of weight and bias."""
    conv = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels).cuda()
    shape = (*grid, channels)

    def forward(x: Tensor) -> Tensor:
        return depthwise_conv(x, conv.to(x.dtype), residual=True)

    def gradients(x: Tensor, dout: Tensor):
        return _operators().triton_depthwise_weight_gradient(x, dout, size, False)

    def reference_gradients(x: Tensor, dout: Tensor):
        x, dout, weight = x.permute(0, 3, 1, 2), dout.permute(0, 3, 1, 2), conv.to(x.dtype).weight.detach()
        settings = ([channels], [1, 1], [size // 2] * 2, [1, 1], False, [0, 0], channels, [False, True, True])
        return torch.ops.aten.convolution_backward(dout, x, weight, *settings)[1:]

    label = f"depthwise {size}×{size} of {_size(shape)}"
    yield Problem(f"{label}, forward", forward, _plain(forward), (shape,), 2, 2 * size**2)
    yield Problem(f"{label}, weight gradient", gradients, reference_gradients, (shape,) * 2, 2, 2 * size**2)


def feed_forward(grid: Grid, channels: int) -> Iterator[Problem]:
    """h + conv(h), h = GELU(x), and its gradients: one kernel for that of x, one for those of weight and bias."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels).cuda()
    shape = (*grid, channels)

    def forward(x: Tensor) -> Tensor:
        return depthwise_conv(x, conv.to(x.dtype), gelu=True, residual=True)

    both = _gradients(forward, conv)
    label = f"GELU and depthwise 3×3 of {_size(shape)}, forward and gradients"
    yield Problem(label, both, _plain(both), (shape,) * 2, 7, 54)


def layer_norm(grid: Grid, channels: int) -> Iterator[Problem]:
    norm = LayerNorm(channels, eps=1e-6).cuda()
    nn.init.normal_(norm.weight)
    shape = (*grid, channels)

    def forward(x: Tensor) -> Tensor:
        return norm.to(x.dtype)(x)

    both = _gradients(forward, norm)
    label = f"LayerNorm of {_size(shape)}"
    yield Problem(f"{label}, forward", forward, _plain(forward), (shape,), 2, 8)
    yield Problem(f"{label}, forward and gradients", both, _plain(both), (shape,) * 2, 5, 24)
    yield Problem(f"addition and {label}, forward", add_layer_norm, _plain(add_layer_norm), (shape,) * 2, 4, 9)


def _operators() -> Any:
    """`torch.ops.rmt` after the registration of the Triton operators."""
    from rmt.ops.triton import attention_ops, depthwise_ops  # noqa: F401

    return torch.ops.rmt


def _gradients(function: Callable[..., Tensor], layer: nn.Module | None = None) -> Callable[..., Any]:
    """A function of (*inputs, dout): the gradients of `function(*inputs)` for its inputs and the layer's parameters."""

    def run(*args: Tensor):
        *inputs, dout = args
        leaves = [t.detach().requires_grad_() for t in inputs]
        with torch.enable_grad():
            out = function(*leaves)
        return torch.autograd.grad(out, [*leaves, *(layer.parameters() if layer else ())], dout)

    return run


def _config(channels: int, decomposed: bool) -> MaSAConfig:
    return MaSAConfig(decomposed, "released", DECAY_RANGE, scale=channels**-0.5)


def _prior(q: Tensor, config: MaSAConfig) -> SpatialPrior:
    """The prior for the grid of q; in float64 with the phases of float32, because kernels compute with those."""
    _, height, width, heads, channels = q.shape
    prior = spatial_prior(height, width, heads, channels, config.decay_range, q)
    if q.dtype == torch.float64:
        single = spatial_prior(height, width, heads, channels, config.decay_range, q.float())
        prior = prior._replace(sin=single.sin.double(), cos=single.cos.double())
    return prior


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))
