"""Operations on tokens: the formula, and faster implementations. Needs only torch.

`masa.py` is the formula, `dispatch.py` the rule that chooses an implementation. The operations exported here choose one
for each call; the functions of `masa.py` and the layers of `torch.nn` are their reference implementations.
"""

from rmt.ops.dispatch import (
    BACKENDS,
    LayerNorm,
    Linear,
    add_layer_norm,
    depthwise_conv,
    fuses_gelu,
    layer_norm,
    linear,
    manhattan_attention,
    register_backend,
    use_backend,
)
from rmt.ops.masa import Decay, MaSAConfig, Phases, SpatialPrior, decay_rates
from rmt.ops.prior_cache import spatial_prior

__all__ = [
    "BACKENDS",
    "Decay",
    "LayerNorm",
    "Linear",
    "MaSAConfig",
    "Phases",
    "SpatialPrior",
    "add_layer_norm",
    "decay_rates",
    "depthwise_conv",
    "fuses_gelu",
    "layer_norm",
    "linear",
    "manhattan_attention",
    "register_backend",
    "spatial_prior",
    "use_backend",
]
