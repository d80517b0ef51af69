"""What a predictor hands over to be explained: the network, its input, and the number that stands for its decision."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from rmt.errors import RMTError
from rmt.model import RMT

Box = tuple[float, float, float, float]  # left, top, right, bottom
Point = tuple[float, float]  # x, y


@dataclass(frozen=True)
class Subject:
    """One image and one decision of a network.

    Attributes:
        photo: the image, upright RGB.
        view: the part of the photo that the network is shown, in pixels of the photo. It can reach beyond the photo
            where the image was padded.
        network: the backbone.
        pixels: the input of the whole network, (1, 3, H, W), by which gradients are taken.
        baseline: an input without content, the mean colour, of the same shape or one that broadcasts to it.
        backbone_input: what the backbone is given for it, (1, 3, H', W'); padded at the right and at the bottom.
        size: (height, width) of the view in `pixels`.
        score: (B, 3, H, W) to (B,), differentiable: the logit of the decision. None if nothing was found.
        decision: the prediction, in one line.
        target: what `score` is the logit of.
        region: bool (height, width) of the view: the pixels that the decision is about; None for the whole image.
        draw: returns the photo with what was found drawn on it; None for the photo itself.
    """

    photo: Image.Image
    view: Box
    network: RMT
    pixels: Tensor
    baseline: Tensor
    backbone_input: Tensor
    size: tuple[int, int]
    score: Callable[[Tensor], Tensor] | None
    decision: str
    target: str
    region: np.ndarray | None = None
    draw: Callable[[], Image.Image] | None = None

    def to_view(self, point: Point) -> Point:
        """A point of the photo in pixels of the network's input."""
        left, top, right, bottom = self.view
        height, width = self.size
        return (point[0] - left) * width / (right - left), (point[1] - top) * height / (bottom - top)

    def to_photo(self, point: Point) -> Point:
        """A point of the network's input in pixels of the photo."""
        left, top, right, bottom = self.view
        height, width = self.size
        return left + point[0] * (right - left) / width, top + point[1] * (bottom - top) / height


def check_point(at: Point, photo: Image.Image, view: Box | None = None) -> None:
    """Raise RMTError for a point outside the photo, or outside the part of it that the network is shown."""
    if not (0 <= at[0] < photo.width and 0 <= at[1] < photo.height):
        raise RMTError(
            f"--at {at[0]:g},{at[1]:g} lies outside the image: x is at most {photo.width - 1}, y {photo.height - 1}"
        )
    if view and not (view[0] <= at[0] < view[2] and view[1] <= at[1] < view[3]):
        left, top, right, bottom = (round(max(side, 0)) for side in view)
        raise RMTError(
            f"--at {at[0]:g},{at[1]:g} lies outside what the network is shown of the image: "
            f"x from {left} to {right - 1}, y from {top} to {bottom - 1}"
        )


def nearest_to_middle(region: np.ndarray) -> Point | None:
    """The point (x, y) of a region, bool (h, w), that is nearest to its centre, which lies outside of a ring."""
    rows, columns = np.nonzero(region)
    if not len(rows):
        return None
    nearest = np.argmin((rows - rows.mean()) ** 2 + (columns - columns.mean()) ** 2)
    return float(columns[nearest]) + 0.5, float(rows[nearest]) + 0.5
