"""MaSA as plain tensor products: the readable reference that every faster backend is compared with."""

import functools

from torch import Tensor

from rmt.ops.decay import SpatialPrior, rotate
from rmt.ops.form import Form
from rmt.ops.lines import as_one_line, rows_then_columns


def unusable(q: Tensor, form: Form, needs_grad: bool) -> str | None:
    """Why this backend cannot serve such a call; None if it can. This one always can."""
    return None


def attend(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """Attention over the grid, from queries and keys that have not been rotated.

    Args:
        q, k, v: (B, h, w, n, d), any strides.
        prior: of the h × w grid.
        form: which attention.
    Returns:
        (B, h, w, n, d) in the dtype of v.
    """
    q, k = rotate_pairs(q, k, prior, form)
    if form.decomposed:
        return rows_then_columns(
            functools.partial(attend_lines, form=form), q, k, v, prior.log_decay_w, prior.log_decay_h
        )
    return as_one_line(functools.partial(_attend_grid, prior=prior, form=form), q, k, v)


def rotate_pairs(q: Tensor, k: Tensor, prior: SpatialPrior, form: Form) -> tuple[Tensor, Tensor]:
    """q and scaled k with their rotary phases."""
    if form.scale != 1:
        k = k * form.scale
    return rotate(q, prior.sin, prior.cos, form.half_split), rotate(k, prior.sin, prior.cos, form.half_split)


def attend_lines(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, form: Form) -> Tensor:
    """Attention over (L, n, length, d), with log_decay (n, length, length)."""
    weights = attention_weights(q @ k.transpose(-2, -1), form, log_decay)
    return weights.to(v.dtype) @ v


def _attend_grid(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """Attention over all pairs of a grid's tokens, (B, n, h·w, d)."""
    # D²ᵈ = Dᴴ ⊗ Dᵂ by broadcasting: a table of (h·w)² entries per head is never made.
    n, h, w = q.shape[1], prior.log_decay_h.shape[-1], prior.log_decay_w.shape[-1]
    log_decay_h, log_decay_w = prior.log_decay_h.view(n, h, 1, h, 1), prior.log_decay_w.view(n, 1, w, 1, w)
    scores = (q @ k.transpose(-2, -1)).unflatten(-1, (h, w)).unflatten(-3, (h, w))  # (B, n, h, w, h, w)
    weights = attention_weights(scores, form, log_decay_h, log_decay_w).flatten(-4, -3).flatten(-2)
    return weights.to(v.dtype) @ v


def attention_weights(scores: Tensor, form: Form, *log_decays: Tensor) -> Tensor:
    """Decay and softmax in the tables' precision; the keys are the last dimension, or with two tables the last two."""
    scores = scores.to(log_decays[0].dtype)
    if form.decay == "released":
        for log_decay in log_decays:
            scores = scores + log_decay
    keys = scores.shape[-len(log_decays) :]
    weights = scores.flatten(-len(log_decays)).softmax(-1).unflatten(-1, keys)
    if form.decay == "paper":
        for log_decay in log_decays:
            weights = weights * log_decay.exp()
    return weights
