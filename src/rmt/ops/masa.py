"""Manhattan Self-Attention (MaSA) in plain PyTorch: the formula of RMT (CVPR 2024, arXiv 2309.11523). Needs only torch.

From top to bottom: the configuration, the spatial prior (decay rates, Eq. 8; distances, Eq. 4; rotary phases, Eq. 1),
attention over all pairs of tokens (Eq. 5) and along rows and columns (Eq. 6), and the depthwise convolution beside it
(LCE, Eq. 7). Every faster implementation in `rmt.ops` is tested against the functions of this file.

Tokens lie on a grid, channels last: (B, h, w, C), with n heads (B, h, w, n, d), d = C/n.
"""

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Decay",
    "MaSAConfig",
    "Phases",
    "SpatialPrior",
    "decay_rates",
    "decomposed_attention",
    "full_attention",
    "log_decay",
    "manhattan_attention",
    "manhattan_log_decay",
    "rotary_phases",
    "spatial_prior",
]

#: Where the decay is applied: `"released"`, `"paper"` or `"none"`, see `MaSAConfig`.
Decay = Literal["released", "paper", "none"]
#: The rotation of queries and keys: `"flat"`, `"axial"` or `"none"`, see `ManhattanSelfAttention`.
Phases = Literal["flat", "axial", "none"]


class MaSAConfig(NamedTuple):
    """Which attention is computed. Hashable and constant for a module, so that compilers specialise on it.

    Attributes:
        decomposed: attend along rows and then along columns (Eq. 6); otherwise over all pairs of tokens (Eq. 5).
        decay: `"released"` adds |Δ|·ln γ to the scores before the softmax, as the released networks do, so that the
            weights of a query sum to 1; `"paper"` multiplies the weights by γ^|Δ| after the softmax, as the paper
            writes it, so that they sum to less; `"none"` leaves the decay out.
        decay_range: (a, b) of Eq. 8, see `decay_rates`.
        scale: factor of the keys, d^−½; 1 if their weights include it.
        half_split: rotate the channel pairs (j, j + d/2); otherwise (2j, 2j + 1).
        tolerance: sum of the attention weights of a query that may be left out. Only implementations with windows
            use it (`windows.py`); the formula in this file ignores it.
        phases: rotation of queries and keys, see `ManhattanSelfAttention`.
        softmax: normalise the scores; otherwise the weights are the scores times γ^|Δ|, as in RetNet (Eq. 2).
    """

    decomposed: bool
    decay: Decay
    decay_range: tuple[float, float]
    scale: float
    half_split: bool = False
    tolerance: float = 0.0
    phases: Phases = "flat"
    softmax: bool = True


# ---------------------------------------------------------------------------------------------------------------------
# The spatial prior: it depends only on the size of the grid, not on the data.


class SpatialPrior(NamedTuple):
    """Rotary phases and decay of an h × w grid of tokens.

    Always float32 (float64 for a float64 network), whatever the network's dtype: in bfloat16 the
    56 × 56 = 3,136 token positions of stage 1 would round to 709 distinct values.

    Attributes:
        sin: (h, w, 1, d/2), sines of the rotary phases.
        cos: (h, w, 1, d/2), cosines of the rotary phases.
        log_decay_h: (n, h, h), ln γ·|Δy| for each pair of rows.
        log_decay_w: (n, w, w), ln γ·|Δx| for each pair of columns.
        log_gamma: (n,), ln γ of each head.
    """

    sin: Tensor
    cos: Tensor
    log_decay_h: Tensor
    log_decay_w: Tensor
    log_gamma: Tensor


def spatial_prior(
    height: int,
    width: int,
    num_heads: int,
    head_dim: int,
    decay_range: tuple[float, float],
    like: Tensor,
    phases: Phases = "flat",
) -> SpatialPrior:
    """Compute the prior of a height × width grid, on the device of `like`, in float32 (float64 if `like` is).

    The arguments are those of `rmt.ops.spatial_prior`, see there.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    log_gamma = log_decay_rates(num_heads, decay_range, dtype, like.device)
    phase = rotary_phases(height, width, head_dim, dtype, like.device, phases)
    return SpatialPrior(
        sin=phase.sin(),
        cos=phase.cos(),
        log_decay_h=log_decay(height, log_gamma),
        log_decay_w=log_decay(width, log_gamma),
        log_gamma=log_gamma,
    )


def decay_rates(num_heads: int, decay_range: tuple[float, float]) -> list[float]:
    """γᵢ = 1 − 2^(−a − (b−a)·i/n) of head i of n, for `decay_range` (a, b). Eq. 8.

    γ grows with i: the first head decays fastest, the last has the largest receptive field. With a = b all are equal.
    """
    a, b = decay_range
    if min(a, b) <= 0:
        raise ValueError(f"decay_range={decay_range}: both numbers must be above 0")
    return [1 - 2 ** (-a - (b - a) * i / num_heads) for i in range(num_heads)]


def log_decay_rates(
    num_heads: int, decay_range: tuple[float, float], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """ln γᵢ of each head, (n,)."""
    rates = decay_rates(num_heads, decay_range)
    return torch.tensor([math.log(gamma) for gamma in rates], dtype=dtype, device=device)


def log_decay(length: int, log_gamma: Tensor) -> Tensor:
    """|Δ|·ln γᵢ between the positions of one axis, for ln γ (n,): (n, length, length), never positive."""
    position = torch.arange(length, dtype=log_gamma.dtype, device=log_gamma.device)
    distance = (position[:, None] - position[None, :]).abs()
    return log_gamma[:, None, None] * distance


def manhattan_log_decay(prior: SpatialPrior) -> Tensor:
    """(|Δx| + |Δy|)·ln γ between all tokens of the grid, row by row: (n, h·w, h·w). Eq. 4.

    The Manhattan distance is the sum of the distances along both axes, so the decay is a product, D²ᵈ = Dᴴ ⊗ Dᵂ, and
    its logarithm a sum.
    """
    along_columns, along_rows = prior.log_decay_h[:, :, None, :, None], prior.log_decay_w[:, None, :, None, :]
    return (along_columns + along_rows).flatten(3, 4).flatten(1, 2)  # from (n, h, w, h, w)


def rotary_phases(
    height: int, width: int, head_dim: int, dtype: torch.dtype, device: torch.device, phases: Phases = "flat"
) -> Tensor:
    """The angle of each channel pair of each token in radians, (height, width, 1, head_dim/2).

    `"flat"`, as in the released networks: p·θⱼ for the row-major position p = y·width + x, θⱼ = 10000^(−j/(d/2−1)). The
    order of the operations is that of these networks: at 2688² p reaches 451,584, where computing it in another order
    changes the float32 phases visibly. `"axial"`: the first half of the pairs rotates by x·θⱼ, the second by y·θⱼ, each
    half with all frequencies from 1 to 1/10000. Scores depend on the difference of two phases only, so that in the
    decomposed form rows see x and columns see y, with the same q and k. `"none"`: zeros, as in Eq. 5.
    """
    if phases == "none":
        return torch.zeros(height, width, 1, head_dim // 2, dtype=dtype, device=device)
    if phases == "axial":
        pairs_y = head_dim // 4
        along_x = rotary_phases(1, width, head_dim - 2 * pairs_y, dtype, device)  # (1, w, 1, pairs of x)
        along_y = rotary_phases(height, 1, 2 * pairs_y, dtype, device)  # (h, 1, 1, pairs of y)
        return torch.cat((along_x.expand(height, -1, -1, -1), along_y.expand(-1, width, -1, -1)), dim=-1)
    theta = 1.0 / 10000 ** torch.linspace(0, 1, head_dim // 2, dtype=dtype, device=device)
    position = torch.arange(height * width, dtype=dtype, device=device)
    return (position[:, None] * theta).view(height, width, 1, head_dim // 2)


def rotate(x: Tensor, prior: SpatialPrior, half_split: bool = False) -> Tensor:
    """Rotate the channel pairs (a, b) of x (B, h, w, n, d) by the phases: (a·cos − b·sin, b·cos + a·sin).

    Pair j consists of the adjacent channels (2j, 2j+1); with `half_split`, of (j, j + d/2), which moves less data and
    for which `rmt.deploy` permutes the weights of queries and keys.
    """
    if half_split:
        a, b = x.chunk(2, dim=-1)
    else:
        a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    rotated = (a * prior.cos - b * prior.sin, b * prior.cos + a * prior.sin)  # (B, h, w, n, d/2) each
    return (torch.cat(rotated, dim=-1) if half_split else torch.stack(rotated, dim=-1).flatten(-2)).to(x.dtype)


# ---------------------------------------------------------------------------------------------------------------------
# Attention.


def manhattan_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """Manhattan Self-Attention over a grid of tokens.

    Args:
        q: queries before their rotation, (B, h, w, n, d), any strides.
        k: keys before their rotation, (B, h, w, n, d), any strides.
        v: values, (B, h, w, n, d), any strides.
        prior: of the h × w grid.
        config: which attention.
    Returns:
        (B, h, w, n, d), in the dtype of v.
    """
    q, k = rotate_queries_and_keys(q, k, prior, config)
    if config.decomposed:
        return decomposed_attention(q, k, v, prior, config)
    return full_attention(q, k, v, prior, config)


def rotate_queries_and_keys(q: Tensor, k: Tensor, prior: SpatialPrior, config: MaSAConfig) -> tuple[Tensor, Tensor]:
    """q and the scaled k with their rotary phases."""
    if config.scale != 1:
        k = k * config.scale
    if config.phases == "none":
        return q, k
    return rotate(q, prior, config.half_split), rotate(k, prior, config.half_split)


def full_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """Attention over all pairs of tokens (Eq. 5), for rotated q and scaled, rotated k: (B, h, w, n, d)."""
    grid = q.shape[1:3]
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, n, h·w, d)
    weights = attention_weights(q @ k.transpose(-2, -1), manhattan_log_decay(prior), config)  # (B, n, h·w, h·w)
    out = weights.to(v.dtype) @ v  # (B, n, h·w, d)
    return out.transpose(1, 2).unflatten(1, grid)  # (B, h, w, n, d)


def decomposed_attention(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, config: MaSAConfig) -> Tensor:
    """Attention along each row and then, with the same q and k, along each column (Eq. 6): (B, h, w, n, d)."""
    v = attend_along_width(q, k, v, prior.log_decay_w, config)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, w, h, n, d): columns become rows
    return attend_along_width(q, k, v, prior.log_decay_h, config).transpose(1, 2)  # (B, h, w, n, d)


def attend_along_width(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, config: MaSAConfig) -> Tensor:
    """Attention within each row, over the width axis: (B, h, w, n, d), with the logarithmic decay `bias` (n, w, w)."""
    rows = q.shape[:2]
    # Rank 4, because Inductor's attention pattern matcher fails on rank 5.
    q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B·h, n, w, d)
    weights = attention_weights(q @ k.transpose(-2, -1), bias, config)  # (B·h, n, w, w)
    out = weights.to(v.dtype) @ v  # (B·h, n, w, d)
    return out.transpose(1, 2).unflatten(0, rows)  # (B, h, w, n, d)


def attention_weights(scores: Tensor, log_decay: Tensor, config: MaSAConfig) -> Tensor:
    """Softmax of the scores (…, n, queries, keys) over the keys, with the decay, in the dtype of the prior.

    Without softmax, the scores themselves with the decay.
    """
    weights = scores.to(log_decay.dtype)
    del scores  # each step frees its input: the scores are the largest tensors of a network
    if config.softmax:
        if config.decay == "released":
            weights = weights + log_decay
        weights = weights.softmax(dim=-1)
    if config.decay == "paper" or (config.decay == "released" and not config.softmax):
        weights = weights * log_decay.exp()
    return weights


# ---------------------------------------------------------------------------------------------------------------------
# Depthwise convolutions of tokens: LCE (Eq. 7), conditional positional encoding and that of the feed-forward.


def depthwise_conv(
    x: Tensor,
    conv: nn.Conv2d,
    *,
    residual: bool = False,
    plus: Tensor | None = None,
    gelu: bool = False,
    shift: Tensor | None = None,
) -> Tensor:
    """conv(y), plus y if `residual`, plus the tensor `plus` if given; y = x, or GELU(x + shift) with `gelu`.

    Args:
        x: tokens (B, h, w, C).
        conv: a depthwise convolution whose padding keeps the size of the grid.
        residual: add y.
        plus: a tensor to add, (B, h, w, C).
        gelu: apply GELU before the convolution.
        shift: added before GELU, (C,).
    """
    y = x if shift is None else x + shift
    y = F.gelu(y) if gelu else y
    out = conv(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    if residual:
        out = y + out
    return out if plus is None else plus + out
