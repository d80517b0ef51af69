"""From a grid of tokens to lines of tokens and back, for the backends that attend along lines (L, n, length, d)."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

Table = TypeVar("Table")  # what a backend has to know about a line, its decay


def rows_then_columns(
    attend: Callable[[Tensor, Tensor, Tensor, Table], Tensor],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Table,
    columns: Table,
) -> Tensor:
    """The decomposed form: v attended to along rows and then, with the same q and k, along columns; (B, h, w, n, d)."""
    v = along_rows(attend, q, k, v, rows)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))  # (B, w, h, n, d)
    return along_rows(attend, q, k, v, columns).transpose(1, 2)


def along_rows(
    attend: Callable[[Tensor, Tensor, Tensor, Table], Tensor], q: Tensor, k: Tensor, v: Tensor, table: Table
) -> Tensor:
    """One of its passes: every row (B, h, w, n, d) attended to by itself."""
    lines = q.shape[:2]
    # Products of rank 4: the compiler's attention matcher cannot take more.
    q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))  # (B·lines, n, length, d)
    return attend(q, k, v, table).transpose(1, 2).unflatten(0, lines)


def as_one_line(attend: Callable[[Tensor, Tensor, Tensor], Tensor], q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The full form: the grid's tokens, row by row, as one line, (B, n, h·w, d); in and out (B, h, w, n, d)."""
    grid = q.shape[1:3]
    q, k, v = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))
    return attend(q, k, v).transpose(1, 2).unflatten(1, grid)
