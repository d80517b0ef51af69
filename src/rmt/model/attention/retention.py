"""RetNet's retention (arXiv 2307.08621) over the tokens of a grid as a sequence: (QKᵀ ⊙ D)·V, without a softmax.

With Dₙₘ = γ^(n−m) for n ≥ m and 0 otherwise (Eq. 1, 2 of the RMT paper) in three forms, parallel, recurrent and
chunk-wise, which compute the same function of a sequence; or bidirectional, Dₙₘ = γ^|n−m| (Eq. 3). Position n of a
token also sets its rotary phase e^{inθ}.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.model.attention.window import MAX_WINDOW, from_windows, to_windows
from rmt.model.rmt import ManhattanSelfAttention
from rmt.ops.masa import MaSAConfig, SpatialPrior, rotary_phases, rotate_queries_and_keys


def log_rates(prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """ln γ of each head (n,), 0 without decay."""
    return torch.zeros_like(prior.log_gamma) if config.decay == "none" else prior.log_gamma


def causal_decay(length: int, log_gamma: Tensor) -> Tensor:
    """Dₙₘ = γ^(n−m) for n ≥ m, else 0: (n, length, length)."""
    position = torch.arange(length, dtype=log_gamma.dtype, device=log_gamma.device)
    distance = (position[:, None] - position).clamp(min=0)
    return (distance * log_gamma[:, None, None]).exp().tril()


def retain(q: Tensor, k: Tensor, v: Tensor, decay: Tensor) -> Tensor:
    """(QKᵀ ⊙ D)·V for (…, n, L, d) and D (n, L, L)."""
    weights = (q @ k.transpose(-2, -1)).to(decay.dtype) * decay
    return weights.to(v.dtype) @ v


def to_sequence(x: Tensor) -> Tensor:
    """(B, h, w, n, d) to (B, n, h·w, d), in row-major order."""
    return x.flatten(1, 2).transpose(1, 2)


def to_grid(x: Tensor, height: int, width: int) -> Tensor:
    """(B, n, h·w, d) to (B, h, w, n, d)."""
    return x.transpose(1, 2).reshape(x.shape[0], height, width, x.shape[1], x.shape[3])


def parallel_retention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """Causal retention over all pairs of tokens; arguments as `masa.manhattan_attention`."""
    height, width = q.shape[1:3]
    q, k, v = (to_sequence(t) for t in (*rotate_queries_and_keys(q, k, prior, config), v))
    return to_grid(retain(q, k, v, causal_decay(height * width, log_rates(prior, config))), height, width)


def bidirectional_retention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """Retention over all pairs of tokens with D = γ^|n−m| (Eq. 3); arguments as `masa.manhattan_attention`."""
    height, width = q.shape[1:3]
    q, k, v = (to_sequence(t) for t in (*rotate_queries_and_keys(q, k, prior, config), v))
    past = causal_decay(height * width, log_rates(prior, config))
    return to_grid(retain(q, k, v, past + past.transpose(1, 2).triu(diagonal=1)), height, width)


def recurrent_retention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """Causal retention by a state of d × d per head, Sₙ = γ·Sₙ₋₁ + kₙᵀvₙ, oₙ = qₙSₙ; arguments as
    `masa.manhattan_attention`."""
    height, width = q.shape[1:3]
    q, k = rotate_queries_and_keys(q, k, prior, config)
    q, k, v = (t.flatten(1, 2).unsqueeze(-2) for t in (q, k, v))  # (B, N, n, 1, d)
    out = q @ recur(k.transpose(-2, -1) @ v, log_rates(prior, config)).to(q.dtype)
    return out.squeeze(-2).unflatten(1, (height, width)).to(v.dtype)


def recur(updates: Tensor, log_gamma: Tensor) -> Tensor:
    """Sₜ = γ·Sₜ₋₁ + updateₜ along dimension 1 of (B, T, n, d, d), in the dtype of log_gamma.

    A Python loop over T steps, which compilers unroll.
    """
    gamma = log_gamma.exp()[:, None, None]
    first, *rest = updates.to(gamma.dtype).unbind(1)
    states = [first]
    for update in rest:
        states.append(torch.addcmul(update, gamma, states[-1]))
    return torch.stack(states, dim=1)


def chunkwise_retention(
    q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig, window_size: int
) -> Tensor:
    """Causal retention over the tokens in the order of `to_windows`: parallel in a window, states between windows.

    Arguments as `masa.manhattan_attention`. The tokens that fill incomplete windows count as positions of the sequence,
    without keys and values.
    """
    batch, height, width, _, head_dim = q.shape
    length, log_gamma = window_size**2, log_rates(prior, config)
    if config.phases == "flat":  # the position in this sequence
        chunks = -(-height // window_size) * -(-width // window_size)
        phases = rotary_phases(1, chunks * length, head_dim, log_gamma.dtype, q.device).unflatten(1, (-1, length))
        phases = from_windows(phases, height, width, window_size)[0]  # (h, w, 1, d/2)
        prior = prior._replace(sin=phases.sin(), cos=phases.cos())
    q, k, v = (to_windows(t, window_size) for t in (*rotate_queries_and_keys(q, k, prior, config), v))
    q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B·chunks, n, length, d)
    inside = retain(q, k, v, causal_decay(length, log_gamma))

    # The state after each chunk: that before it, γ^length times, and its own kᵀv, with the decay up to its last token.
    position = torch.arange(length, dtype=log_gamma.dtype, device=log_gamma.device)[:, None]
    from_start, to_end = (
        (distance * log_gamma[:, None, None]).exp() for distance in (position + 1, length - 1 - position)
    )  # (n, length, 1)
    updates = (k * to_end).to(v.dtype).transpose(-2, -1) @ v  # (B·chunks, n, d, d)
    states = recur(updates.unflatten(0, (batch, -1)), length * log_gamma)
    states = F.pad(states[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)).flatten(0, 1)  # before each chunk, 0 before the first
    before = (q @ states.to(q.dtype)) * from_start
    out = (inside + before.to(inside.dtype)).transpose(1, 2).unflatten(0, (batch, -1))
    return from_windows(out, height, width, window_size)


class ParallelRetention(ManhattanSelfAttention):
    """Causal retention of the tokens in row-major order (Eq. 1, 2), with the projections of MaSA.

    Args:
        dim, num_heads, decay_range, phases, lce: as in `ManhattanSelfAttention`; its `decomposed` has no effect.
        decay: `"released"` and `"paper"` are equal, since there is no softmax; `"none"` leaves the decay out.
        gate: RetNet's gate and its norm over each head.
    """

    attend: Callable[..., Tensor] = staticmethod(parallel_retention)

    def __init__(self, dim: int, num_heads: int, **options: Any) -> None:
        super().__init__(dim, num_heads, **options | dict(decomposed=False))


class BidirectionalRetention(ParallelRetention):
    """Retention with the decay γ^|n−m| between all tokens (Eq. 3); arguments as `ParallelRetention`."""

    attend: Callable[..., Tensor] = staticmethod(bidirectional_retention)


class RecurrentRetention(ParallelRetention):
    """`ParallelRetention`, computed token by token: O(N) operations, but N steps one after another."""

    attend: Callable[..., Tensor] = staticmethod(recurrent_retention)


class ChunkwiseRetention(ParallelRetention):
    """Causal retention of the tokens in the order of windows, a window at a time; arguments as `ParallelRetention`.

    Args:
        window_size: side of the windows; chunks of 49 tokens with 7.
    """

    window_size: int = 7

    def __init__(self, dim: int, num_heads: int, *, window_size: int = 7, **options: Any) -> None:
        if not 1 <= window_size <= MAX_WINDOW:
            raise ValueError(f"window_size={window_size} does not lie in 1 to {MAX_WINDOW}")
        super().__init__(dim, num_heads, **options)
        self.window_size = window_size
        self.attend: Callable[..., Tensor] = functools.partial(chunkwise_retention, window_size=window_size)
