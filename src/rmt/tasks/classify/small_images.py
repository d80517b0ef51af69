"""Settings for training from scratch on small images, in few passes over them."""

from typing import Any

from rmt.recipes import ClassifyRecipe
from rmt.recipes.recipe import AUTO

LARGEST_SIDE = 64
"""Side in pixels up to which `NETWORKS` suit the images; on larger ones their first convolutions take too long."""

NETWORKS = ("rmt_micro", "rmt_nano")
"""The networks for small images, the best first."""

BATCH = 96
"""Images of a step on a CPU."""

ERASED = 0.25
"""Share of the training images of which a rectangle is erased, in runs of `ERASING_PASSES` or more; measured in
benchmarks/evidence/erasing.json."""
ERASING_PASSES = 20


def suit(recipe: ClassifyRecipe, network: str) -> bool:
    """Whether `settings` suit the network under the recipe: their rates are Muon's, and too high for AdamW."""
    return network in NETWORKS and not recipe.weights and recipe.optimizer in (AUTO, "muon")


def settings(side: int, batch: int = BATCH) -> dict[str, Any]:
    """Fields of `ClassifyRecipe` for training one of `NETWORKS` from scratch on images of `side` pixels.

    Chosen on 10,000 photographs of CIFAR-10 and 3 to 10 passes over them in batches of 96: Muon at a high rate, and no
    augmentation but a shift of up to an eighth of the side and the flip, as stronger ones need more passes to help. The
    rate for batches of 512 is that of benchmarks/gpu/cifar10.json.
    """
    return {
        "optimizer": "muon",
        "lr": 0.012 if batch < 256 else 0.015,
        "batch_size": batch,
        "crop_padding": max(1, side // 8),
        "randaugment": "",
        "crop_pct": 1.0,
    }
