"""Manhattan Self-Attention (MaSA): the readable reference that every faster backend is compared with."""

from typing import Literal, get_args

from torch import Tensor, nn

from rmt.model.decay import SpatialPrior, rotate, spatial_prior

Decay = Literal["released", "paper", "none"]


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
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.lce = nn.Conv2d(dim, dim, 5, padding=2, groups=dim) if lce else None
        self.proj = nn.Linear(dim, dim)

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
        v = self.v(x)
        heads = (self.num_heads, self.head_dim)
        q = rotate(self.q(x).unflatten(-1, heads), prior.sin, prior.cos)  # (B, h, w, n, d)
        k = rotate((self.k(x) * self.head_dim**-0.5).unflatten(-1, heads), prior.sin, prior.cos)
        attend = self._attend_decomposed if self.decomposed else self._attend_full
        out = attend(q, k, v.unflatten(-1, heads), prior).flatten(-2)
        if self.lce is not None:
            out = out + self.lce(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.proj(out)

    def _attend_decomposed(self, q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior) -> Tensor:
        v = self._attend_axis(q, k, v, prior.log_decay_w)  # along rows
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, w, h, n, d)
        v = self._attend_axis(q, k, v, prior.log_decay_h)  # along columns
        return v.transpose(1, 2)

    def _attend_axis(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
        """Attend along the third dimension of (B, lines, length, n, d), with log_decay (n, length, length)."""
        lines = q.shape[:2]
        # Products of rank 4: the compiler's attention matcher cannot take more.
        q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B·lines, n, length, d)
        weights = self._weights(q @ k.transpose(-2, -1), log_decay)
        return (weights.to(v.dtype) @ v).transpose(1, 2).unflatten(0, lines)

    def _attend_full(self, q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior) -> Tensor:
        h, w = grid = q.shape[1:3]
        q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, n, h·w, d)
        # D²ᵈ = Dᴴ ⊗ Dᵂ by broadcasting: a table of (h·w)² entries per head is never made.
        n = self.num_heads
        log_decay_h, log_decay_w = prior.log_decay_h.view(n, h, 1, h, 1), prior.log_decay_w.view(n, 1, w, 1, w)
        scores = (q @ k.transpose(-2, -1)).unflatten(-1, grid).unflatten(-3, grid)  # (B, n, h, w, h, w)
        weights = self._weights(scores, log_decay_h, log_decay_w).flatten(-4, -3).flatten(-2)
        return (weights.to(v.dtype) @ v).transpose(1, 2).unflatten(1, grid)

    def _weights(self, scores: Tensor, *log_decays: Tensor) -> Tensor:
        """Decay and softmax in the tables' precision; the keys are the last dimension, or with two tables the last two."""
        scores = scores.to(log_decays[0].dtype)
        if self.decay == "released":
            for log_decay in log_decays:
                scores = scores + log_decay
        keys = scores.shape[-len(log_decays) :]
        weights = scores.flatten(-len(log_decays)).softmax(-1).unflatten(-1, keys)
        if self.decay == "paper":
            for log_decay in log_decays:
                weights = weights * log_decay.exp()
        return weights
