"""What every backend is asked for: one value that describes the attention, apart from its tensors."""

from typing import Literal, NamedTuple

import torch

Decay = Literal["released", "paper", "none"]


class Form(NamedTuple):
    """Which attention over the grid. Hashable and constant for a module, so that compilers can specialise on it."""

    decomposed: bool  # rows, then columns; otherwise all pairs
    decay: Decay  # see ManhattanSelfAttention
    decay_range: tuple[float, float]  # (a, b) of γᵢ = 1 − 2^(−a − (b−a)·i/n)
    scale: float  # the keys' factor; 1 where it is folded into their weights
    half_split: bool = False  # pairs (j, j + d/2) rotate; otherwise (2j, 2j + 1)
    tolerance: float = 0.0  # windowed: weights that may be left out, see window.py; backends without windows are exact
    spread: float | None = None  # windowed: the promised spread of the logits; None to bound it on the input


def being_exported() -> bool:
    """Whether `torch.export` or `torch.jit.trace` is recording; `torch.compile` is not meant.

    PyTorch 2.6 does not tell the two apart: there, `torch.compile` counts too.
    """
    if torch.jit.is_tracing():
        return True
    return _exporting() if KNOWS_EXPORT else torch.compiler.is_compiling()


KNOWS_EXPORT = hasattr(torch.compiler, "is_exporting")


@torch.compiler.assume_constant_result
def _exporting() -> bool:
    """Asked by the tracing compiler, not traced: PyTorch 2.11's takes `is_exporting` for true in every compile."""
    return torch.compiler.is_exporting()
