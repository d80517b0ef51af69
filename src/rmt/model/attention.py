"""Manhattan Self-Attention (MaSA): the module. Its products, readable, are in `backends/plain.py`."""

from typing import get_args

from torch import Tensor, nn

from rmt.ops import Decay, Form, attend
from rmt.ops.decay import SpatialPrior, spatial_prior
from rmt.ops.depthwise import depthwise
from rmt.ops.linear import Linear


class ManhattanSelfAttention(nn.Module):
    """Self-attention whose scores fade with the Manhattan distance between tokens, at a rate of each head's own.

    Full form, every token with every other: softmax(q·k + (|Δx| + |Δy|)·ln γ)·v. Decomposed form: the same along each
    row, |Δx| alone, and then along each column, |Δy| alone, with the same q and k. To the result is added the local
    context enhancement (LCE), a 5×5 depthwise convolution of v, before the output projection.

    Args:
        dim: channels C; a multiple of 2·num_heads, since channels rotate in pairs.
        num_heads: n.
        decay_range: (a, b) of γᵢ = 1 − 2^(−a − (b−a)·i/n), Eq. 8.
        decomposed: rows, then columns, O(N·(h+w)); otherwise all pairs, O(N²).
        decay: `"released"` adds |Δ|·ln γ before the softmax, as the released networks do (weights sum to 1);
            `"paper"` multiplies by γ^|Δ| after it, as the paper writes (weights sum to less); `"none"` leaves it out.
        lce: with local context enhancement.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        decay_range: tuple[float, float] = (2.0, 6.0),
        decomposed: bool = True,
        decay: Decay = "released",
        lce: bool = True,
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim={dim} is not a multiple of 2·num_heads={2 * num_heads}: channels rotate in pairs")
        if decay not in get_args(Decay):
            raise ValueError(f"decay={decay!r} is not one of {get_args(Decay)}")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.decay_range = (float(decay_range[0]), float(decay_range[1]))
        self.decomposed = decomposed
        self.decay = decay
        self.form = Form(decomposed, decay, self.decay_range, scale=self.head_dim**-0.5)
        self.q = Linear(dim, dim)
        self.k = Linear(dim, dim)
        self.v = Linear(dim, dim)
        self.lce = nn.Conv2d(dim, dim, 5, padding=2, groups=dim) if lce else None
        self.proj = Linear(dim, dim)

    def prior(self, height: int, width: int, like: Tensor) -> SpatialPrior:
        """The tables `forward` needs for a height × width grid; equal for all blocks of a stage."""
        return spatial_prior(height, width, self.num_heads, self.head_dim, self.decay_range, like)

    def forward(self, x: Tensor, prior: SpatialPrior | None = None) -> Tensor:
        """Attend over the grid.

        Args:
            x: tokens, (B, h, w, C).
            prior: from `self.prior(h, w, x)`, to share it between blocks; made here if absent.
        Returns:
            (B, h, w, C)
        """
        if prior is None:
            prior = self.prior(x.shape[1], x.shape[2], x)
        heads = (self.num_heads, self.head_dim)
        v = self.v(x)
        q, k = self.q(x).unflatten(-1, heads), self.k(x).unflatten(-1, heads)  # (B, h, w, n, d)
        out = attend(q, k, v.unflatten(-1, heads), prior, self.form).flatten(-2)
        if self.lce is not None:
            out = depthwise(v, self.lce, plus=out)
        return self.proj(out)
