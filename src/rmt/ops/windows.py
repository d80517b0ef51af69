"""Attention windows: the distance beyond which the attention weights of a query provably sum to at most a tolerance.

A head's weights fall with the distance, so a kernel may skip distant keys. The window radius is the number of tokens to
each side that a head has to see for a given error.

Let the logits q·k of a query differ by at most the spread Δ. On a line of L tokens, consider a query with a tokens on
one side and b on the other. The weights of the keys farther away than r sum to at most

    e^Δ·(T(a) + T(b)) / (1 + S(a) + S(b)),   S(n) = Σ_{δ=1..n} γ^δ,   T(n) = Σ_{δ=r+1..n} γ^δ,

since each numerator is at most e^Δ times the smallest, and a shift common to all logits cancels. `window_radius`
returns the least r for which this is at most the tolerance for every query of the line. For attention over all pairs
the window is a number of rows: the sums over the columns are equal for all rows and cancel, so the bound is that of a
column.

If weights that sum to w are left out and the others rescaled, an output changes by at most w·(max v − min v); in
decomposed attention this happens twice. By the Cauchy-Schwarz inequality Δ ≤ 2·max‖q‖·max‖k‖, which the rotation does
not change.
"""

import functools
import math

import torch
from torch import Tensor

STEP = 0.25  # spreads are rounded up to multiples of this, so that the cache of window sizes is hit


@functools.lru_cache(maxsize=4096)
def window_radius(gamma: float, length: int, tolerance: float, spread: float) -> int:
    """The number of tokens to each side that a head with decay rate `gamma` has to see on a line of `length` tokens.

    Args:
        tolerance: what the weights outside may sum to.
        spread: Δ, the largest difference between two logits of a query.
    Returns:
        the least sufficient number; length − 1, all tokens, if there is none.
    """
    if gamma >= 1 or not math.isfinite(spread):
        return length - 1
    left = torch.arange(length, dtype=torch.float64)
    sides, log_gamma = (left, left.flip(0)), math.log(gamma)

    def outside(r: int) -> float:
        """The bound above for a window of r, without the factor γ/(1 − γ) that both sums have in common."""
        inside = sum((1 - (n * log_gamma).exp() for n in sides), start=torch.tensor((1 - gamma) / gamma))
        beyond = sum(1 - ((n - r).clamp(min=0) * log_gamma).exp() for n in sides)
        return (math.exp(min(700.0, spread + r * log_gamma)) * beyond / inside).max().item()

    low, high = 0, length - 1  # outside(length − 1) is 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if outside(middle) <= tolerance else (middle + 1, high)
    return low


def spreads(q: Tensor, k: Tensor, scale: float) -> list[float]:
    """2·max‖q‖·max‖k‖, a bound of Δ for each head of q and k (B, h, w, n, d); infinite if a norm is not finite."""
    if not q.numel():
        return [0.0] * q.shape[3]
    norms = [torch.linalg.vector_norm(t.float(), dim=-1).flatten(0, -2).amax(0) for t in (q, k)]
    bound = 2 * abs(scale) * norms[0].double() * norms[1].double() * (1 + 1e-5)  # norms are rounded
    return bound.nan_to_num(math.inf, math.inf, math.inf).tolist()


def window_radii(q: Tensor, k: Tensor, scale: float, gammas: list[float], tolerance: float) -> list[int]:
    """The window radius of each head for this input, in tokens, sufficient along rows and along columns.

    Args:
        gammas: decay rate of each head.
        tolerance: what the weights outside may sum to, in each pass.
    """
    height, width = q.shape[1:3]
    windows = []
    for gamma, bound in zip(gammas, spreads(q, k, scale), strict=True):
        spread = math.ceil(bound / STEP) * STEP if math.isfinite(bound) else math.inf
        windows.append(max(window_radius(gamma, length, tolerance, spread) for length in (height, width)))
    return windows
