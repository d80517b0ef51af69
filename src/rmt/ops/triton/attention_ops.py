"""Which kernel a call takes, how it is launched, and the operators that PyTorch's compilers see.

| form | tokens | kernel |
|---|---|---|
| decomposed | a side up to 64 | `lines` along it |
| decomposed | a longer side | `long` along it |
| full | up to 64 | `lines`, the grid as one line |
| full | more | `long` |

Nothing is accumulated by more than one program: results repeat bit for bit.
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from rmt.ops.call import flat_tokens
from rmt.ops.triton import lines, long
from rmt.ops.triton.launch import Launch, directly, operator, traceably
from rmt.ops.windows import head_reaches

SHORT = 64  # tokens of a line that one block holds

# For each tile of tokens, forward and backward: warps, pipeline stages, and the programs to have on each
# multiprocessor, among which images are divided. The fastest measured on an H100 (benchmarks/gpu/first-runs.txt).
LINES = {
    16: ((1, 1, 64), (1, 1, 64)),
    32: ((1, 1, 32), (1, 1, 64)),
    64: ((4, 3, 16), (4, 1, 64)),
}
LONG = (64, 64, 4)  # queries, keys, warps


def _padded(length: int) -> int:
    """The next power of two, at least 16: the least that matrix units take."""
    return max(16, 1 << (length - 1).bit_length())


def _options(q: Tensor) -> dict:
    exact = q.dtype != torch.float32 or torch.get_float32_matmul_precision() == "highest"
    return dict(
        CHANNELS=q.shape[-1],
        PAIRS=_padded(q.shape[-1]) // 2,
        PRECISION="ieee" if exact else "tf32",
    )


def _images_each(images: int, lines: int, programs: int, device: torch.device) -> int:
    """Images that one program goes through, so that the GPU has enough programs and each makes its tables once."""
    return max(1, images * lines // (_multiprocessors(device) * programs))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


class _Axis:
    """One way through (B, h, w, n, d) tensors: lines of tokens, and where they lie."""

    def __init__(self, shape: tuple[int, ...], along: str) -> None:
        _, height, width, _, _ = shape
        self.along, self.width = along, width
        if along == "rows":
            self.lines, self.length, self.position = height, width, (width, 1)
        elif along == "columns":
            self.lines, self.length, self.position = width, height, (1, width)
        else:  # the grid as one line
            self.lines, self.length, self.position = 1, height * width, (0, 1)

    def strides(self, x: Tensor) -> tuple[int, int, int, int]:
        """Of an image, a line, a token and a head."""
        image, row, column, head, _ = x.stride()
        if self.along == "columns":
            row, column = column, row
        return image, row, column, head


class Attention:
    """The constants of one call, and the launches of its passes.

    Args:
        q: any tensor of the call's shape and dtype, (B, h, w, n, d).
        tables: cos, sin and log_gamma of the prior.
        reaches: each head's window in tokens, (n,) int32, see `windows.py`; None for all tokens.
        half_split, decay, scale: the pairs that rotate, whether there is a decay, the factor of the keys. All are
            constants of the kernels: a number among their arguments would be a float64 in a compiled program.
        launch: see `launch.py`.
    """

    def __init__(
        self,
        q: Tensor,
        tables: Sequence[Tensor],
        reaches: Tensor | None,
        half_split: bool,
        decay: bool,
        scale: float,
        launch: Launch = directly,
    ) -> None:
        self.launch = launch
        self.shape, self.device = q.shape, q.device
        cos, sin, log_gamma = tables
        self.tables, self.reaches = (cos.contiguous(), sin.contiguous(), log_gamma), reaches
        self.options = _options(q) | dict(HALF_SPLIT=half_split, DECAY=decay, SCALE=scale)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, along: str, keep: bool = False) -> tuple[Tensor, Tensor]:
        """A pass, and the logarithms of the weights' sums where `keep` asks for them and backward will need them."""
        axis, out = _Axis(self.shape, along), v.new_empty(v.shape)
        images, _, _, heads, _ = self.shape
        strides = [n for t in (q, k, v, out) for n in axis.strides(t)]
        if axis.length <= SHORT:
            tile = _padded(axis.length)
            (warps, stages, programs), _ = LINES[tile]
            each = _images_each(images, heads * axis.lines, programs, self.device)
            self.launch(
                lines.forward,
                (heads, axis.lines, -(-images // each)),
                *(q, k, v, out, *self.tables, *strides),
                *(images, axis.length, *axis.position, axis.width, each),
                **(self.options | dict(L=tile, GRID=along == "grid", num_warps=warps, num_stages=stages)),
            )
            return out, out
        queries, keys, warps = LONG
        totals = torch.empty((images, heads, axis.lines, axis.length), dtype=torch.float32, device=self.device)
        self.launch(
            long.forward,
            (heads, axis.lines * -(-axis.length // queries), images),
            *(q, k, v, out, totals, *self.tables),
            *(self.tables[2] if self.reaches is None else self.reaches, *strides),
            *(heads, axis.lines, axis.length, *axis.position, axis.width),
            **(self.options | dict(M=queries, N=keys, GRID=along == "grid", num_warps=warps)),
            WINDOW=self.reaches is not None,
            KEEP=keep,
        )
        return out, totals

    def backward(
        self, inputs: tuple[Tensor, ...], known: tuple[Tensor, Tensor], grads: tuple[Tensor, ...], along: str, add: bool
    ) -> None:
        """From q, k, v, dout of a pass to dq, dk, dv, added to the first two where `add` says so."""
        q, k, v, dout = inputs
        dq, dk, dv = grads
        axis = _Axis(self.shape, along)
        images, _, _, heads, _ = self.shape
        if axis.length <= SHORT:
            tile = _padded(axis.length)
            _, (warps, stages, programs) = LINES[tile]
            each = _images_each(images, heads * axis.lines, programs, self.device)
            strides = [n for t in (q, k, v, dout, dq) for n in axis.strides(t)]
            self.launch(
                lines.backward,
                (heads, axis.lines, -(-images // each)),
                *(q, k, v, dout, dq, dk, dv, *self.tables, *strides),
                *(images, axis.length, *axis.position, axis.width, each),
                **(self.options | dict(ADD=add, L=tile, GRID=along == "grid")),
                num_warps=warps,
                num_stages=stages,
            )
            return
        out, totals = known
        deltas = torch.empty_like(totals)
        queries, keys, warps = LONG
        sizes = (heads, axis.lines, axis.length, *axis.position, axis.width)
        options = self.options | dict(ADD=add, M=queries, N=keys, GRID=along == "grid", num_warps=warps)
        self.launch(
            long.backward_queries,
            (heads, axis.lines * -(-axis.length // queries), images),
            *(q, k, v, out, dout, dq, totals, deltas, *self.tables),
            *(n for t in (q, k, v, out, dout, dq) for n in axis.strides(t)),
            *sizes,
            **options,
        )
        self.launch(
            long.backward_keys,
            (heads, axis.lines * -(-axis.length // keys), images),
            *(q, k, v, dout, dk, dv, totals, deltas, *self.tables),
            *(n for t in (q, k, v, dout, dk) for n in axis.strides(t)),
            *sizes,
            **options,
        )


def forward(launch: Launch, q: Tensor, k: Tensor, v: Tensor, cos, sin, log_gamma, reaches, *options) -> Tensor:
    """Attention, (B, h, w, n, d).

    Args:
        cos, sin, log_gamma: of the prior.
        reaches: see `Attention`.
        options: decomposed, half_split, decay, scale.
    """
    decomposed, half_split, decay, scale = options
    q, k, v = (_readable(t, decomposed) for t in (q, k, v))
    call = Attention(q, (cos, sin, log_gamma), reaches, half_split, decay, scale, launch)
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
        return forward(directly, *inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        return *backward(directly, dout, *ctx.saved_tensors, *ctx.options), *[None] * 8


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:6])  # q, k, v, cos, sin, log_gamma; reaches are for inference
    ctx.options = inputs[7:]


def _placed(*tables: Tensor) -> list[Tensor]:
    """The same tables, each at a place in memory: PyTorch's compiler otherwise makes them anew for every kernel."""
    return [table.as_strided(table.shape, table.stride()) for table in tables]


@operator("triton_attention", fake=lambda q, k, v, *rest: v.new_empty(v.shape))
def _operator(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, log_gamma: Tensor, reaches: Tensor | None,
    decomposed: bool, half_split: bool, decay: bool, scale: float,
) -> Tensor:  # fmt: skip
    tables = _placed(cos, sin, log_gamma)
    return forward(traceably, q, k, v, *tables, reaches, decomposed, half_split, decay, scale)


@operator("triton_attention_backward", fake=lambda dout, q, k, v, *rest: tuple(t.new_empty(t.shape) for t in (q, k, v)))
def _backward_operator(
    dout: Tensor, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, log_gamma: Tensor,
    decomposed: bool, half_split: bool, decay: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    tables = _placed(cos, sin, log_gamma)
    return backward(traceably, dout, q, k, v, *tables, decomposed, half_split, decay, scale)


def _gradients(ctx, dout: Tensor):
    return *torch.ops.rmt.triton_attention_backward(dout, *ctx.saved_tensors, *ctx.options), *[None] * 8


_operator.register_autograd(_gradients, setup_context=_setup_context)


@torch.library.custom_op("rmt::triton_reaches", mutates_args=())
def _reaches(q: Tensor, k: Tensor, log_gamma: Tensor, scale: float, tolerance: float, spread: float) -> Tensor:
    """Each head's window in tokens, (n,) int32; a spread below 0 is to be bounded on the input."""
    gammas = log_gamma.double().exp().tolist()
    found = head_reaches(q, k, scale, gammas, tolerance, None if spread < 0 else spread)
    return torch.tensor(found, dtype=torch.int32, device=q.device)


@_reaches.register_fake
def _(q, k, log_gamma, scale, tolerance, spread):
    return q.new_empty(q.shape[3], dtype=torch.int32)
