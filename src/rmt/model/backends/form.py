"""What every backend is asked for: one value that describes the attention, apart from its tensors."""

from typing import Literal, NamedTuple

Decay = Literal["released", "paper", "none"]


class Form(NamedTuple):
    """Which attention over the grid. Hashable and constant for a module, so that compilers can specialise on it."""

    decomposed: bool  # rows, then columns; otherwise all pairs
    decay: Decay  # see ManhattanSelfAttention
    decay_range: tuple[float, float]  # (a, b) of γᵢ = 1 − 2^(−a − (b−a)·i/n)
    scale: float  # the keys' factor; 1 where it is folded into their weights
    half_split: bool = False  # pairs (j, j + d/2) rotate; otherwise (2j, 2j + 1)
