"""Settings for training from scratch on small images, in few passes over them."""

from typing import Any

LARGEST_SIDE = 64
"""Side in pixels up to which `rmt_nano` suits the images; on larger ones its first convolutions take too long."""


ERASED = 0.25
"""Share of the training images of which a rectangle is erased, in runs of `ERASING_PASSES` or more; measured in
benchmarks/evidence/erasing.json."""
ERASING_PASSES = 20


def small_image_settings(side: int) -> dict[str, Any]:
    """Fields of `ClassifyRecipe` for training `rmt_nano` from scratch on images of `side` pixels.

    Chosen on 10,000 photographs of CIFAR-10 and 3 to 10 passes over them: Muon at a high rate, and no augmentation but
    a shift of up to an eighth of the side and the flip, as stronger ones need more passes to help.
    """
    return {
        "optimizer": "muon",
        "lr": 0.012,
        "batch_size": 96,
        "crop_padding": max(1, side // 8),
        "randaugment": "",
        "crop_pct": 1.0,
    }
