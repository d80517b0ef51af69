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
from typing import Any

import torch
from torch import Tensor

from rmt.ops.autograd import direct
from rmt.ops.call import allows_tf32, flat_tokens
from rmt.ops.flops import attention, count_flops
from rmt.ops.second_order import attention_gradients, needs_formula
from rmt.ops.triton import lines, long
from rmt.ops.triton.attention_settings import LINES, LINES_UNLIMITED, LONG, ROTATED, WIDEST, Blocks
from rmt.ops.triton.launch import Launch, launch_eager, launch_traced, operator
from rmt.ops.windows import window_radii

SHORT = 64  # tokens of the longest line that one block takes whole


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
        self.images, height, self.width, self.heads, self.channels = shape
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

    def short(self, device: torch.device, limited: bool, backward: bool) -> tuple[tuple, tuple, dict]:
        """Grid, sizes and constants of a kernel of `lines`, with a limit of registers if `limited`."""
        tile = _padded(self.length)
        table = LINES if limited else LINES_UNLIMITED
        how = table["wide" if tile == 64 and self.channels > 16 else tile][backward]
        # Lines of all images that one program takes, so that all programs run at the same time.
        total = self.lines * self.images
        each = -(-total * self.heads // (_multiprocessors(device) * how.programs))
        sizes = (self.images, self.lines, self.length, *self.position, self.width, each)
        constants: dict = dict(L=tile, GRID=self.along == "grid", num_warps=how.warps, num_stages=how.stages)
        if not backward:
            constants["PREFETCH"] = how.prefetch
        return (self.heads, -(-total // each)), sizes, constants | dict(maxnreg=how.registers)

    def long(self, kernel: str, limited: bool, windows: bool = False) -> tuple[tuple, tuple, dict]:
        """Grid, sizes and constants of a kernel of `long`: blocks of queries, or of keys for `"keys"`."""
        how = self._long_settings[kernel]
        sizes: tuple[int, ...] = (self.heads, self.lines, self.length)
        constants: dict = dict(M=how.queries, N=how.keys, GRID=self.along == "grid")
        constants |= dict(num_warps=how.warps, num_stages=how.stages, maxnreg=how.registers if limited else None)
        if kernel != "keys":
            rest = 0 if windows else self.length % how.keys
            constants["TAIL"] = _padded(rest) if rest else 0
        if kernel != "forward":
            sizes += (self.padded,)
        block = how.keys if kernel == "keys" else how.queries
        # Along one dimension: the others end at 65,535, and an image of 33 megapixels has more blocks than that.
        grid = (self.heads * self.lines * -(-self.length // block), 1, self.images)
        return grid, (*sizes, *self.position, self.width), constants

    @property
    def _long_settings(self) -> dict[str, Blocks]:
        return LONG[min(width for width in LONG if width >= self.channels)]

    @property
    def padded(self) -> int:
        """Tokens of a line, padded to whole blocks of queries of `long.forward`."""
        queries = self._long_settings["forward"].queries
        return -(-self.length // queries) * queries


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

    shape: torch.Size
    device: torch.device
    tables: tuple[Tensor, Tensor, Tensor]
    radii: Tensor | None

    def __init__(
        self, q: Tensor, tables: Sequence[Tensor], radii: Tensor | None,
        half_split: bool, decay: bool, scale: float, launch: Launch = launch_eager,
    ) -> None:  # fmt: skip
        self.launch = launch
        # Whether the limits of registers apply that were found for such tensors.
        self.limited: bool = launch is not launch_traced and q.dtype.itemsize == 2 and q.shape[-1] <= WIDEST
        self.shape, self.device = q.shape, q.device
        cos, sin, log_gamma = tables
        self.tables, self.radii = (cos.contiguous(), sin.contiguous(), log_gamma), radii
        exact = q.dtype != torch.float32 or not allows_tf32()
        sizes = dict(CHANNELS=q.shape[-1], PAIRS=_padded(q.shape[-1]) // 2, PRECISION="ieee" if exact else "tf32")
        self.options: dict[str, int | str | float] = sizes | dict(HALF_SPLIT=half_split, DECAY=decay, SCALE=scale)

    def is_long(self, along: str) -> bool:
        """Whether the lines of a pass are too long for `lines`, so that it reads rotated keys."""
        return _Axis(self.shape, along).length > SHORT

    def rotated(self, x: Tensor) -> Tensor:
        """Queries or keys with their phases, for long lines, whose blocks are read many times."""
        out, axis = x.new_empty(x.shape), _Axis(self.shape, "rows")
        tokens, warps = ROTATED
        grid = (axis.heads * -(-axis.length // tokens), axis.lines, axis.images)
        sizes = (axis.heads, axis.length, axis.width)
        options = {name: self.options[name] for name in ("CHANNELS", "PAIRS", "HALF_SPLIT")}
        arguments = (x, out, *self.tables[:2], *axis.strides(x, out), *sizes)
        self.launch(long.rotate, grid, *arguments, TOKENS=tokens, num_warps=warps, **options)
        return out

    def forward(self, q: Tensor, k: Tensor, v: Tensor, along: str, keep: bool = False) -> tuple[Tensor, Tensor]:
        """The output of a pass and, with `keep`, the logarithms of the weights' sums if its backward needs them.

        k is `rotated` if the lines are long.
        """
        axis, out = _Axis(self.shape, along), v.new_empty(v.shape)
        strides = axis.strides(q, k, v, out)
        if axis.length <= SHORT:
            grid, sizes, constants = axis.short(self.device, self.limited, backward=False)
            self.launch(lines.forward, grid, q, k, v, out, *self.tables, *strides, *sizes, **self.options | constants)
            return out, out
        grid, sizes, constants = axis.long("forward", self.limited, windows=self.radii is not None)
        shape = (axis.images, axis.heads, axis.lines, axis.padded)
        totals = torch.empty(shape, dtype=torch.float32, device=self.device)
        radii = self.tables[2] if self.radii is None else self.radii  # not read without windows
        constants |= dict(WINDOW=self.radii is not None, KEEP=keep)
        tensors = (q, k, v, out, totals, *self.tables, radii)
        self.launch(long.forward, grid, *tensors, *strides, *sizes, **self.options | constants)
        return out, totals

    def backward(
        self, inputs: tuple[Tensor, ...], known: tuple[Tensor, ...], grads: tuple[Tensor, ...], along: str, add: bool
    ) -> None:
        """From q, k, v, dout of a pass to dq, dk, dv, with `add` added to what the first two contain.

        `known` is what `forward` returned with `keep`, and q and k `rotated`; it is not read for short lines.
        """
        (q, k, v, dout), (dq, dk, dv), (out, totals, *rotated) = inputs, grads, known
        axis = _Axis(self.shape, along)
        if axis.length <= SHORT:
            grid, sizes, constants = axis.short(self.device, self.limited, backward=True)
            tensors = (q, k, v, dout, dq, dk, dv, *self.tables, *axis.strides(q, k, v, dout, dq))
            self.launch(lines.backward, grid, *tensors, *sizes, **self.options | constants, ADD=add)
            return
        deltas = torch.empty_like(totals)
        grid, sizes, constants = axis.long("queries", self.limited)
        options = self.options | constants | dict(ADD=add)
        turned_q, turned_k = rotated
        tensors = (q, turned_k, v, out, dout, dq, totals, deltas, *self.tables)
        tensors += tuple(axis.strides(q, turned_k, v, out, dout, dq))
        self.launch(long.backward_queries, grid, *tensors, *sizes, **options)
        grid, sizes, constants = axis.long("keys", self.limited)
        options = self.options | constants | dict(ADD=add)
        tensors = (turned_q, k, v, dout, dk, dv, totals, deltas, *self.tables)
        tensors += tuple(axis.strides(turned_q, k, v, dout, dk))
        self.launch(long.backward_keys, grid, *tensors, *sizes, **options)


def forward(
    launch: Launch, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, log_gamma: Tensor, radii: Tensor | None,
    decomposed: bool, half_split: bool, decay: bool, scale: float,
) -> Tensor:  # fmt: skip
    """Attention, (B, h, w, n, d).

    Args:
        cos, sin, log_gamma: of the prior.
        radii, half_split, decay, scale: see `Attention`.
        decomposed: along rows, then along columns, instead of over all pairs.
    """
    q, k, v = (_readable(t, decomposed) for t in (q, k, v))
    call = Attention(q, (cos, sin, log_gamma), radii, half_split, decay, scale, launch)
    if not v.numel():
        return v.new_empty(v.shape)
    passes = ("rows", "columns") if decomposed else ("grid",)
    long_passes = [along for along in passes if call.is_long(along)]
    turned = call.rotated(k) if long_passes else k
    for along in passes:
        v, _ = call.forward(q, turned if along in long_passes else k, v, along)
    return v


def backward(
    launch: Launch, dout: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, log_gamma: Tensor,
    decomposed: bool, half_split: bool, decay: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk, dv of `forward`, which is computed again as far as it is needed."""
    q, k, v, dout = (_readable(t, decomposed) for t in (q, k, v, dout))
    call = Attention(q, (cos, sin, log_gamma), None, half_split, decay, scale, launch)
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    if not v.numel():
        return dq, dk, dv
    passes = ("rows", "columns") if decomposed else ("grid",)
    turned = [call.rotated(t) for t in (q, k)] if any(call.is_long(along) for along in passes) else [q, k]

    def again(along: str, v: Tensor) -> tuple[Tensor, ...]:
        return *call.forward(q, turned[1] if call.is_long(along) else k, v, along, keep=True), *turned

    if not decomposed:
        known = again("grid", v) if call.is_long("grid") else (v, v)
        call.backward((q, k, v, dout), known, (dq, dk, dv), "grid", add=False)
        return dq, dk, dv
    rows = again("rows", v)
    columns = again("columns", rows[0]) if call.is_long("columns") else rows
    dbetween = v.new_empty(v.shape)
    call.backward((q, k, rows[0], dout), columns, (dq, dk, dbetween), "columns", add=False)
    call.backward((q, k, v, dbetween), rows, (dq, dk, dv), "rows", add=True)
    return dq, dk, dv


def _readable(x: Tensor, decomposed: bool) -> Tensor:
    """x itself where the kernels can read it: adjacent channels and, if the grid is one line, rows that follow."""
    if decomposed:
        return x if x.stride(4) == 1 else x.contiguous()
    return flat_tokens(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:6])  # q, k, v, cos, sin, log_gamma; radii are for inference
    ctx.options = inputs[7:]


def _eager_gradients(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    if needs_formula(dout):
        q, k, v, cos, sin, log_gamma = ctx.saved_tensors
        options = dict(zip(("decomposed", "half_split", "decay", "scale"), ctx.options, strict=True))
        return *attention_gradients(dout, (q, k, v, sin, cos, log_gamma), **options), *[None] * 8
    return *backward(launch_eager, dout, *ctx.saved_tensors, *ctx.options), *[None] * 8


eager_attention = direct(functools.partial(forward, launch_eager), _setup_context, _eager_gradients)


def _placed(cos: Tensor, sin: Tensor, log_gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same tables, stored in memory: PyTorch's compiler otherwise recomputes them for every kernel."""
    cos, sin, log_gamma = (table.as_strided(table.shape, table.stride()) for table in (cos, sin, log_gamma))
    return cos, sin, log_gamma


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


def _gradients(ctx: Any, dout: Tensor) -> tuple[Tensor | None, ...]:
    return *torch.ops.rmt.triton_attention_backward(dout, *ctx.saved_tensors, *ctx.options), *[None] * 8


_ops = torch.ops.rmt
count_flops(_ops.triton_attention, lambda q, *rest: attention(q, rest[6]))
count_flops(_ops.triton_attention_backward, lambda dout, q, *rest: 2 * attention(q, rest[5]))
_operator.register_autograd(_gradients, setup_context=_setup_context)


@torch.library.custom_op("rmt::triton_window_radii", mutates_args=())
def _window_radii(q: Tensor, k: Tensor, log_gamma: Tensor, scale: float, tolerance: float) -> Tensor:
    """Each head's window in tokens, (n,) int32."""
    gammas = log_gamma.double().exp().tolist()
    found = window_radii(q, k, scale, gammas, tolerance)
    return torch.tensor(found, dtype=torch.int32, device=q.device)


@_window_radii.register_fake
def _(q, k, log_gamma, scale, tolerance):
    return q.new_empty(q.shape[3], dtype=torch.int32)
