"""Attention: which kernel a call takes, how it is launched, and the operators that PyTorch's compilers see.

| attention | tokens | kernel |
|---|---|---|
| decomposed | a side up to 64 | `lines` along it |
| decomposed | a longer side | `long` along it |
| over all pairs | up to 64 | `lines`, the grid as one line |
| over all pairs | more | `long` |

No two programs add to the same number: results repeat bit for bit.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from rmt.ops.call import flat_tokens
from rmt.ops.second_order import attention_gradients, is_recorded
from rmt.ops.triton import lines, long
from rmt.ops.triton.launch import Launch, launch_eager, launch_traced, operator
from rmt.ops.windows import window_radii

SHORT = 64  # tokens of the longest line that one block takes whole

# By the tokens of a tile, forward and backward: warps, pipeline stages, and the programs that each multiprocessor
# should get, among which images are divided. The fastest measured on an H100 (benchmarks/gpu/first-runs.txt).
LINES = {
    16: ((1, 1, 64), (1, 1, 64)),
    32: ((1, 1, 32), (1, 1, 64)),
    64: ((4, 3, 16), (4, 1, 64)),
}
LONG = (64, 64, 4)  # queries, keys, warps


def _padded(length: int) -> int:
    """The next power of two, at least 16, which is the least that matrix units take."""
    return max(16, 1 << (length - 1).bit_length())


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


class _Axis:
    """The direction of a pass over (B, h, w, n, d) tensors, and its launch parameters.

    Args:
        along: "rows", "columns", or "grid" for the whole grid as one line.
    """

    def __init__(self, shape: tuple[int, ...], along: str) -> None:
        self.images, height, self.width, self.heads, _ = shape
        self.along = along
        self.lines, self.length, self.position = {
            "rows": (height, self.width, (self.width, 1)),
            "columns": (self.width, height, (1, self.width)),
            "grid": (1, height * self.width, (0, 1)),
        }[along]  # number and length of the lines; distance of two lines and of two tokens in row-major positions

    def strides(self, *tensors: Tensor) -> list[int]:
        """Of an image, a line, a token and a head, for each tensor."""
        strides: list[int] = []
        for x in tensors:
            image, row, column, head, _ = x.stride()
            strides += (image, column, row, head) if self.along == "columns" else (image, row, column, head)
        return strides

    def short(self, device: torch.device, backward: bool) -> tuple[tuple, tuple, dict]:
        """Grid, sizes and constants of a kernel of `lines`."""
        tile = _padded(self.length)
        warps, stages, programs = LINES[tile][backward]
        # Images that one program takes, so that the GPU has enough programs and each computes its tables once.
        each = max(1, self.images * self.heads * self.lines // (_multiprocessors(device) * programs))
        sizes = (self.images, self.length, *self.position, self.width, each)
        constants = dict(L=tile, GRID=self.along == "grid", num_warps=warps, num_stages=stages)
        return (self.heads, self.lines, -(-self.images // each)), sizes, constants

    def long(self) -> tuple[tuple, tuple, dict]:
        """Grid, sizes and constants of a kernel of `long`, whose blocks of queries and keys are of one length."""
        queries, keys, warps = LONG
        sizes = (self.heads, self.lines, self.length, *self.position, self.width)
        constants = dict(M=queries, N=keys, GRID=self.along == "grid", num_warps=warps)
        return (self.heads, self.lines * -(-self.length // queries), self.images), sizes, constants


class Attention:
    """The constants of one call, and the launches of its passes.

    Args:
        q: any tensor of the call's shape and dtype, (B, h, w, n, d).
        tables: cos, sin and log_gamma of the prior.
        radii: each head's window in tokens, (n,) int32, see `windows.py`; None for all tokens.
        half_split, decay, scale: the pairs that rotate, whether there is a decay, the factor of the keys. All are
            constants of the kernels: a number among their arguments would be a float64 in a compiled program.
        launch: see `launch.py`.
    """

    def __init__(
        self, q: Tensor, tables: Sequence[Tensor], radii: Tensor | None,
        half_split: bool, decay: bool, scale: float, launch: Launch = launch_eager,
    ) -> None:  # fmt: skip
        self.launch = launch
        self.shape, self.device = q.shape, q.device
        cos, sin, log_gamma = tables
        self.tables, self.radii = (cos.contiguous(), sin.contiguous(), log_gamma), radii
        exact = q.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
        sizes = dict(CHANNELS=q.shape[-1], PAIRS=_padded(q.shape[-1]) // 2, PRECISION="ieee" if exact else "tf32")
        self.options = sizes | dict(HALF_SPLIT=half_split, DECAY=decay, SCALE=scale)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, along: str, keep: bool = False) -> tuple[Tensor, Tensor]:
        """The output of a pass and, with `keep`, the logarithms of the weights' sums if its backward needs them."""
        axis, out = _Axis(self.shape, along), v.new_empty(v.shape)
        strides = axis.strides(q, k, v, out)
        if axis.length <= SHORT:
            grid, sizes, constants = axis.short(self.device, backward=False)
            self.launch(lines.forward, grid, q, k, v, out, *self.tables, *strides, *sizes, **self.options | constants)
            return out, out
        grid, sizes, constants = axis.long()
        shape = (axis.images, axis.heads, axis.lines, axis.length)
        totals = torch.empty(shape, dtype=torch.float32, device=self.device)
        radii = self.tables[2] if self.radii is None else self.radii  # not read without windows
        constants |= dict(WINDOW=self.radii is not None, KEEP=keep)
        tensors = (q, k, v, out, totals, *self.tables, radii)
        self.launch(long.forward, grid, *tensors, *strides, *sizes, **self.options | constants)
        return out, totals

    def backward(
        self, inputs: tuple[Tensor, ...], known: tuple[Tensor, Tensor], grads: tuple[Tensor, ...], along: str, add: bool
    ) -> None:
        """From q, k, v, dout of a pass to dq, dk, dv, with `add` added to what the first two contain.

        `known` is what `forward` returned with `keep`; it is not read for short lines.
        """
        (q, k, v, dout), (dq, dk, dv), (out, totals) = inputs, grads, known
        axis = _Axis(self.shape, along)
        if axis.length <= SHORT:
            grid, sizes, constants = axis.short(self.device, backward=True)
            tensors = (q, k, v, dout, dq, dk, dv, *self.tables, *axis.strides(q, k, v, dout, dq))
            self.launch(lines.backward, grid, *tensors, *sizes, **self.options | constants, ADD=add)
            return
        deltas = torch.empty_like(totals)
        grid, sizes, constants = axis.long()
        options = self.options | constants | dict(ADD=add)
        tensors = (q, k, v, out, dout, dq, totals, deltas, *self.tables, *axis.strides(q, k, v, out, dout, dq))
        self.launch(long.backward_queries, grid, *tensors, *sizes, **options)
        tensors = (q, k, v, dout, dk, dv, totals, deltas, *self.tables, *axis.strides(q, k, v, dout, dk))
        self.launch(long.backward_keys, grid, *tensors, *sizes, **options)


def forward(launch: Launch, q: Tensor, k: Tensor, v: Tensor, cos, sin, log_gamma, radii, *options) -> Tensor:
    """Attention, (B, h, w, n, d).

    Args:
        cos, sin, log_gamma: of the prior.
        radii: see `Attention`.
        options: decomposed, half_split, decay, scale.
    """
    decomposed, half_split, decay, scale = options
    q, k, v = (_readable(t, decomposed) for t in (q, k, v))
    call = Attention(q, (cos, sin, log_gamma), radii, half_split, decay, scale, launch)
    if not v.numel():
        return v.new_empty(v.shape)
    if not decomposed:
        return call.forward(q, k, v, "grid")[0]
    between, _ = call.forward(q, k, v, "rows")
    return call.forward(q, k, between, "columns")[0]


def backward(launch: Launch, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, cos, sin, log_gamma, *options):
    """dq, dk, dv of `forward`, which is computed again as far as it is needed."""
    decomposed, half_split, decay, scale = options
    q, k, v, dout = (_readable(t, decomposed) for t in (q, k, v, dout))
    call = Attention(q, (cos, sin, log_gamma), None, half_split, decay, scale, launch)
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    if not v.numel():
        return dq, dk, dv
    if not decomposed:
        known = call.forward(q, k, v, "grid", keep=True) if q.shape[1] * q.shape[2] > SHORT else (v, v)
        call.backward((q, k, v, dout), known, (dq, dk, dv), "grid", add=False)
        return dq, dk, dv
    rows = call.forward(q, k, v, "rows", keep=True)
    columns = call.forward(q, k, rows[0], "columns", keep=True) if q.shape[1] > SHORT else rows
    dbetween = v.new_empty(v.shape)
    call.backward((q, k, rows[0], dout), columns, (dq, dk, dbetween), "columns", add=False)
    call.backward((q, k, v, dbetween), rows, (dq, dk, dv), "rows", add=True)
    return dq, dk, dv


def _readable(x: Tensor, decomposed: bool) -> Tensor:
    """x itself where the kernels can read it: adjacent channels and, if the grid is one line, rows that follow."""
    if decomposed:
        return x if x.stride(4) == 1 else x.contiguous()
    return flat_tokens(x)


class Direct(torch.autograd.Function):
    """`forward` and `backward` without PyTorch's dispatcher."""

    @staticmethod
    def forward(ctx, *inputs):
        _setup_context(ctx, inputs, None)
        return forward(launch_eager, *inputs)

    @staticmethod
    def backward(ctx, dout):
        if is_recorded(dout):
            q, k, v, cos, sin, log_gamma = ctx.saved_tensors
            options = dict(zip(("decomposed", "half_split", "decay", "scale"), ctx.options, strict=True))
            return *attention_gradients(dout, (q, k, v, sin, cos, log_gamma), **options), *[None] * 8
        return *backward(launch_eager, dout, *ctx.saved_tensors, *ctx.options), *[None] * 8


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:6])  # q, k, v, cos, sin, log_gamma; radii are for inference
    ctx.options = inputs[7:]


def _placed(*tables: Tensor) -> list[Tensor]:
    """The same tables, stored in memory: PyTorch's compiler otherwise recomputes them for every kernel."""
    return [table.as_strided(table.shape, table.stride()) for table in tables]


@operator("triton_attention", fake=lambda q, k, v, *rest: v.new_empty(v.shape))
def _operator(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, log_gamma: Tensor, radii: Tensor | None,
    decomposed: bool, half_split: bool, decay: bool, scale: float,
) -> Tensor:  # fmt: skip
    tables = _placed(cos, sin, log_gamma)
    return forward(launch_traced, q, k, v, *tables, radii, decomposed, half_split, decay, scale)


@operator("triton_attention_backward", fake=lambda dout, q, k, v, *rest: tuple(t.new_empty(t.shape) for t in (q, k, v)))
def _backward_operator(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, log_gamma: Tensor,
    decomposed: bool, half_split: bool, decay: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tables = _placed(cos, sin, log_gamma)
    return backward(launch_traced, dout, q, k, v, *tables, decomposed, half_split, decay, scale)


def _gradients(ctx, dout: Tensor):
    return *torch.ops.rmt.triton_attention_backward(dout, *ctx.saved_tensors, *ctx.options), *[None] * 8


_operator.register_autograd(_gradients, setup_context=_setup_context)


@torch.library.custom_op("rmt::triton_window_radii", mutates_args=())
def _window_radii(q: Tensor, k: Tensor, log_gamma: Tensor, scale: float, tolerance: float, spread: float) -> Tensor:
    """Each head's window in tokens, (n,) int32; a spread below 0 is to be bounded on the input."""
    gammas = log_gamma.double().exp().tolist()
    found = window_radii(q, k, scale, gammas, tolerance, None if spread < 0 else spread)
    return torch.tensor(found, dtype=torch.int32, device=q.device)


@_window_radii.register_fake
def _(q, k, log_gamma, scale, tolerance, spread):
    return q.new_empty(q.shape[3], dtype=torch.int32)
