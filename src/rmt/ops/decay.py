"""The spatial prior of RMT as plain functions: each head's decay, Manhattan distances, rotary phases.

Everything here depends on the size of the grid alone, never on the data. `spatial_prior` is what the network calls;
in eager mode its tables come from a small cache, while a graph is being captured they are part of the graph.
"""

import math
import threading
from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

# Tables are shared by all networks of the process; the oldest go when together they exceed this many bytes.
CACHE_BYTES = 256 * 2**20


class SpatialPrior(NamedTuple):
    """What attention on an h × w grid of tokens has to know about where they lie.

    Always float32 (float64 for a float64 network), whatever the network's dtype: in bfloat16, 3,136 positions would
    collapse to 709.
    """

    sin: Tensor  # (h, w, 1, d/2) of the rotary phase
    cos: Tensor  # (h, w, 1, d/2)
    log_decay_h: Tensor  # (n, h, h), |Δy|·ln γ: the decay between the rows of one column
    log_decay_w: Tensor  # (n, w, w), |Δx|·ln γ: the decay between the columns of one row
    log_gamma: Tensor  # (n,), ln γ of each head


def decay_rates(num_heads: int, decay_range: tuple[float, float]) -> list[float]:
    """γᵢ = 1 − 2^(−a − (b−a)·i/n) of head i of n, for `decay_range` (a, b). Eq. 8 of the paper.

    Returns:
        n Python floats, growing: the first head fades fastest, the last sees farthest.
    """
    a, b = decay_range
    return [1 - 2 ** (-a - (b - a) * i / num_heads) for i in range(num_heads)]


def log_decay_rates(num_heads: int, decay_range: tuple[float, float], dtype, device) -> Tensor:
    """ln γᵢ of each head, (num_heads,)."""
    rates = decay_rates(num_heads, decay_range)
    return torch.tensor([math.log(gamma) for gamma in rates], dtype=dtype, device=device)


def log_decay(length: int, num_heads: int, decay_range: tuple[float, float], dtype, device) -> Tensor:
    """|Δ|·ln γᵢ between the positions of one axis, (n, length, length), never positive.

    The Manhattan distance is a sum of two axis distances, so D²ᵈ = Dᴴ ⊗ Dᵂ: the logarithm of the decay between any
    two tokens is the sum of an entry of the row table and one of the column table.
    """
    log_gamma = log_decay_rates(num_heads, decay_range, dtype, device)
    position = torch.arange(length, dtype=dtype, device=device)
    distance = (position[:, None] - position[None, :]).abs()
    return log_gamma[:, None, None] * distance


def rotary_phases(height: int, width: int, head_dim: int, dtype, device) -> Tensor:
    """p·θⱼ for the flattened row-major position p = y·width + x, (height, width, 1, head_dim/2), in radians.

    θⱼ = 10000^(−j/(d/2−1)). The order of the operations is part of the released networks: at 2688² p reaches 451,584,
    where any other rounding already differs visibly.
    """
    theta = 1.0 / 10000 ** torch.linspace(0, 1, head_dim // 2, dtype=dtype, device=device)
    position = torch.arange(height * width, dtype=dtype, device=device)
    return (position[:, None] * theta).view(height, width, 1, head_dim // 2)


def rotate(x: Tensor, sin: Tensor, cos: Tensor, half_split: bool = False) -> Tensor:
    """Turn the channel pairs of x (…, h, w, n, d) by the phases, (h, w, 1, d/2) each.

    Pair j is the adjacent channels (2j, 2j+1); with `half_split`, (j, j + d/2), which moves less data and is what
    `rmt.deploy` permutes the query and key weights for.
    """
    if half_split:
        a, b = x.chunk(2, dim=-1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2).to(x.dtype)


def spatial_prior(
    height: int, width: int, num_heads: int, head_dim: int, decay_range: tuple[float, float], like: Tensor
) -> SpatialPrior:
    """The prior of an h × w grid, on the device of `like` and in float32 (float64 where `like` is).

    Plain eager calls are served from a cache; compiled, exported, traced or fake ones compute the tables from their
    symbolic sizes, and leave the cache alone.
    """
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    key = (height, width, num_heads, head_dim, decay_range, dtype, like.device)
    if being_captured(like):
        return _compute(*key)
    return _cache.get(key)


def being_captured(x: Tensor) -> bool:
    """Whether a compiler, an exporter or a tracer follows what is done with x, or it holds no numbers."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or type(x) not in (Tensor, torch.nn.Parameter)
        or _get_current_dispatch_mode() is not None
        or x.device.type == "meta"
    )


def _compute(height, width, num_heads, head_dim, decay_range, dtype, device) -> SpatialPrior:
    phase = rotary_phases(height, width, head_dim, dtype, device)
    return SpatialPrior(
        sin=phase.sin(),
        cos=phase.cos(),
        log_decay_h=log_decay(height, num_heads, decay_range, dtype, device),
        log_decay_w=log_decay(width, num_heads, decay_range, dtype, device),
        log_gamma=log_decay_rates(num_heads, decay_range, dtype, device),
    )


class _Cache:
    """The most recently used tables, up to CACHE_BYTES. Outside every module: copies and pickles never carry it."""

    def __init__(self) -> None:
        self.tables: OrderedDict[tuple, SpatialPrior] = OrderedDict()
        self.bytes = 0
        self.lock = threading.Lock()

    def get(self, key: tuple) -> SpatialPrior:
        with self.lock:
            if key in self.tables:
                self.tables.move_to_end(key)
                return self.tables[key]
        # A table first made in inference mode must serve a later training step, so it is made outside of that mode.
        with torch.inference_mode(False), torch.no_grad():
            prior = _compute(*key)
        size = sum(table.nbytes for table in prior)
        if size > CACHE_BYTES:
            return prior
        with self.lock:
            if key not in self.tables:
                self.tables[key] = prior
                self.bytes += size
            while self.bytes > CACHE_BYTES:
                _, oldest = self.tables.popitem(last=False)
                self.bytes -= sum(table.nbytes for table in oldest)
        return prior

    def clear(self) -> None:
        with self.lock:
            self.tables.clear()
            self.bytes = 0


_cache = _Cache()
