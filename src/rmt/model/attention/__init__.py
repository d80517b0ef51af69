"""Attentions to compare MaSA with, as `RMT(attention=NAME)` builds them in its place.

| name | weights | cost |
|---|---|---|
| `masa` | `ManhattanSelfAttention` (`rmt.py`) | O(N·(h+w)), O(N²) over all pairs |
| `retention` | RetNet's causal retention of the tokens in row-major order, parallel form (Eq. 1, 2) | O(N²) |
| `retention_recurrent` | the same function, token by token | O(N), a loop of N steps |
| `retention_chunkwise` | the same over tokens in the order of Swin's windows, a window at a time (Table 8) | O(N·49) |
| `retention_bidirectional` | the decay between all tokens of the row-major order (Eq. 3) | O(N²) |
| `window` | softmax inside 7×7 windows, without shift and decay | O(N·49) |
| `neighborhood` | softmax over the 7×7 tokens around each query, clamped at the border (NAT), without decay | O(N·49) |

Each replaces only the function of queries, keys and values: projections, phases, LCE and output projection are those of
MaSA, so that networks differ in one thing. Retention has no softmax; with `gate=True` it has RetNet's gate and norm.
MaSA without decay (`decay="none"`) is plain attention.
"""

from rmt.model.attention.neighborhood import NeighborhoodAttention
from rmt.model.attention.retention import (
    BidirectionalRetention,
    ChunkwiseRetention,
    ParallelRetention,
    RecurrentRetention,
)
from rmt.model.attention.window import WindowAttention
from rmt.model.rmt import ManhattanSelfAttention

#: Name, as `RMT(attention=NAME)` takes it -> the module that replaces `ManhattanSelfAttention`.
REPLACEMENTS: dict[str, type[ManhattanSelfAttention]] = {
    "retention": ParallelRetention,
    "retention_recurrent": RecurrentRetention,
    "retention_chunkwise": ChunkwiseRetention,
    "retention_bidirectional": BidirectionalRetention,
    "window": WindowAttention,
    "neighborhood": NeighborhoodAttention,
}

__all__ = [
    "REPLACEMENTS",
    "BidirectionalRetention",
    "ChunkwiseRetention",
    "NeighborhoodAttention",
    "ParallelRetention",
    "RecurrentRetention",
    "WindowAttention",
]
