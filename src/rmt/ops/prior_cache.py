"""The spatial prior with a cache: computed once for each grid size, then reused."""

import threading
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from rmt.ops import masa
from rmt.ops.call import tracing
from rmt.ops.masa import Phases, SpatialPrior

# Shared by all networks of the process; least recently used entries are evicted above this size.
CACHE_BYTES = 256 * 2**20


def spatial_prior(
    height: int,
    width: int,
    num_heads: int,
    head_dim: int,
    decay_range: tuple[float, float],
    like: Tensor,
    phases: Phases = "flat",
) -> SpatialPrior:
    """The phases and the decay of a height × width grid of tokens, from a cache in eager mode.

    Args:
        height: rows of the grid, in tokens.
        width: columns of the grid, in tokens.
        num_heads: number of heads n.
        head_dim: channels d of each head, an even number.
        decay_range: (a, b) of Eq. 8, see `decay_rates`.
        like: a tensor on the device of the result, which is float64 if `like` is, otherwise float32.
        phases: `"flat"`, `"axial"` or `"none"`, see `ManhattanSelfAttention`.

    While tracing (compile, export, fake tensors), sizes may be symbolic: the prior is computed, becomes part of the
    graph, and is not cached.
    """
    arguments = (height, width, num_heads, head_dim, decay_range)
    if tracing(like) != "eager":
        return masa.spatial_prior(*arguments, like, phases)
    key = (*arguments, phases, like.dtype == torch.float64, like.device)
    if _capturing(like):
        return _cache.keep(key, lambda: masa.spatial_prior(*arguments, like, phases))
    return _cache.get(key, lambda: masa.spatial_prior(*arguments, like, phases))


def _capturing(like: Tensor) -> bool:
    """Whether a CUDA graph is being captured."""
    return like.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


class _Cache:
    """The most recently used priors, up to CACHE_BYTES. Kept outside modules, so that copies and pickles stay small.

    Attributes:
        captured: those that CUDA graphs read, which are never evicted: a graph keeps the addresses of tensors only.
    """

    def __init__(self) -> None:
        self.priors: OrderedDict[tuple, SpatialPrior] = OrderedDict()
        self.captured: dict[tuple, SpatialPrior] = {}
        self.bytes = 0
        self.lock = threading.Lock()

    def get(self, key: tuple, compute: Callable[[], SpatialPrior]) -> SpatialPrior:
        with self.lock:
            if key in self.priors:
                self.priors.move_to_end(key)
                return self.priors[key]
        # Outside inference mode: a tensor made inside cannot be saved for a later training step.
        with torch.inference_mode(False), torch.no_grad():
            prior = compute()
        size = sum(table.nbytes for table in prior)
        if size > CACHE_BYTES:
            return prior
        with self.lock:
            if key not in self.priors:
                self.priors[key] = prior
                self.bytes += size
            while self.bytes > CACHE_BYTES:
                _, oldest = self.priors.popitem(last=False)
                self.bytes -= sum(table.nbytes for table in oldest)
        return prior

    def keep(self, key: tuple, compute: Callable[[], SpatialPrior]) -> SpatialPrior:
        """As `get`, while a CUDA graph is captured. A prior that is not known yet is computed by the graph."""
        with self.lock:
            if key in self.priors:
                self.captured[key] = self.priors[key]
            return self.captured[key] if key in self.captured else compute()

    def clear(self) -> None:
        with self.lock:
            self.priors.clear()
            self.captured.clear()
            self.bytes = 0


_cache = _Cache()
