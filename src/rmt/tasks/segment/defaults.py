"""Image size, crops, head width and learning rate of a segmenter, chosen from the sizes of the images and the network.

`segment_defaults` is for fields that a recipe leaves open. The rules for a CPU were found with rmt_pico, trained from
scratch on the street scenes of CamVid (367 images of 480 × 360 pixels, 11 classes).
"""

from typing import Any

import numpy as np

from rmt.data.images import BadImage, open_safely
from rmt.data.segmentation.dataset import SegmentationSet

_READ = 20  # masks of which the size is read
_NARROW = 256  # channels of the last stage up to which a network counts as small


def median_size(pairs: SegmentationSet) -> tuple[int, int]:
    """The median width and the median height of at most 20 of the masks, evenly spread.

    Returns (512, 512) if none of these can be read.
    """
    sizes = []
    for index in np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _READ)).astype(int)).tolist():
        path = pairs.masks[index]
        try:
            with open_safely(path, str(path)) as mask:
                sizes.append(mask.size)
        except BadImage:
            continue
    width, height = np.median(sizes, axis=0).astype(int).tolist() if sizes else (512, 512)
    return width, height


def segment_defaults(size: tuple[int, int], *, channels: int, device: str, from_weights: bool) -> dict[str, Any]:
    """Values for the fields of a `SegmentRecipe` that are open.

    On a GPU they are those of the paper's ADE20K recipes, with another learning rate. On a CPU images are reduced to a
    short side of at most 192 pixels, and crops are the multiple of 32 that is nearest to five sixths of it.

    Args:
        size: (width, height) of the training images: the median of each.
        channels: channels of the last stage of the network.
        device: "cpu", "cuda" or "mps".
        from_weights: whether training starts from weights.
    """
    small = channels <= _NARROW
    rates = {
        "lr": 2e-4 if not small else 1e-3 if from_weights else 2e-3,
        "weight_decay": 0.05 if small else 0.01,
        "warmup_iterations": 50 if small else 200,
    }
    if device != "cpu":
        return rates | {
            "crop_size": 512,
            "short_side": 512,
            "long_side": 2048,
            "min_ratio": 0.5,
            "max_ratio": 2.0,
            "head_width": 0,
        }
    short = max(min(min(size), 192), 32)
    return rates | {
        "crop_size": max(32, 32 * round(short * 5 / 6 / 32)),
        "short_side": short,
        "long_side": max(short, round(short * max(size) / min(size))),
        "min_ratio": 0.75,
        "max_ratio": 1.5,
        "head_width": max(channels // 6, 16),
    }
