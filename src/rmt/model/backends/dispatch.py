"""The one rule by which a backend is picked."""

from torch import Tensor

from rmt.model.backends import plain
from rmt.model.backends.form import Form
from rmt.model.decay import SpatialPrior


def attend(q: Tensor, k: Tensor, v: Tensor, prior: SpatialPrior, form: Form) -> Tensor:
    """As `plain.attend`, by the backend that suits device, dtype, size and whether gradients are needed."""
    return plain.attend(q, k, v, prior, form)
