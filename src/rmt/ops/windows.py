"""How far a head sees: the window outside which all its weights together stay under a tolerance, proven.

Let the logits q·k of a query lie within a spread Δ of each other. On a line of L tokens, the weights of the keys
farther than r from a query with a tokens on one side and b on the other are together at most

    e^Δ·(T(a) + T(b)) / (1 + S(a) + S(b)),   S(n) = Σ_{δ=1..n} γ^δ,   T(n) = Σ_{δ=r+1..n} γ^δ,

since each numerator is at most e^Δ times the smallest, and a shift common to all logits cancels. `reach` is the least r
for which that stays under the tolerance for every query of the line. In the full form the window is one of rows: the
sums over columns are the same above and below and cancel, so the bound is that of a column.

Leaving weights of sum w out and rescaling the others moves an output by at most w·(max v − min v); in the decomposed
form that happens twice. By Cauchy and Schwarz, Δ ≤ 2·max‖q‖·max‖k‖, which rotation leaves alone.
"""

import functools
import math

import torch
from torch import Tensor

STEP = 0.25  # spreads are rounded up to multiples of this, so that few different ones occur


@functools.lru_cache(maxsize=4096)
def reach(gamma: float, length: int, tolerance: float, spread: float) -> int:
    """Tokens to each side that a head of decay `gamma` has to see; length − 1 (all) where no window is safe."""
    if gamma >= 1 or not math.isfinite(spread):
        return length - 1
    left = torch.arange(length, dtype=torch.float64)
    sides, log_gamma = (left, left.flip(0)), math.log(gamma)

    def outside(r: int) -> float:
        """The bound above, without the common factor γ/(1 − γ) of both sums."""
        inside = sum((1 - (n * log_gamma).exp() for n in sides), start=torch.tensor((1 - gamma) / gamma))
        beyond = sum(1 - ((n - r).clamp(min=0) * log_gamma).exp() for n in sides)
        return (math.exp(min(700.0, spread + r * log_gamma)) * beyond / inside).max().item()

    low, high = 0, length - 1  # outside(length − 1) is 0
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if outside(middle) <= tolerance else (middle + 1, high)
    return low


def spreads(q: Tensor, k: Tensor, scale: float) -> list[float]:
    """The bound 2·max‖q‖·max‖k‖ on Δ for each head of q and k (B, h, w, n, d); infinite or NaN norms give infinity."""
    norms = [torch.linalg.vector_norm(t.float(), dim=-1).flatten(0, -2).amax(0) for t in (q, k)]
    bound = 2 * abs(scale) * norms[0].double() * norms[1].double() * (1 + 1e-5)  # norms are rounded
    return bound.nan_to_num(math.inf, math.inf, math.inf).tolist()


def head_reaches(
    q: Tensor, k: Tensor, scale: float, gammas: list[float], tolerance: float, spread: float | None
) -> list[int]:
    """Each head's window for this input, in tokens, enough along rows and along columns.

    Args:
        gammas: each head's decay.
        tolerance: what the weights outside may sum to, in each pass.
        spread: a promise about Δ that gives smaller windows than the bound; where the bound on this input exceeds it,
            the promise cannot be relied upon and the head sees everything. None to use the bound itself.
    """
    height, width = q.shape[1:3]
    windows = []
    for gamma, bound in zip(gammas, spreads(q, k, scale), strict=True):
        if spread is None:
            allowed = math.ceil(bound / STEP) * STEP if math.isfinite(bound) else math.inf
        else:
            allowed = spread if bound <= spread else math.inf
        windows.append(max(reach(gamma, length, tolerance, allowed) for length in (height, width)))
    return windows
