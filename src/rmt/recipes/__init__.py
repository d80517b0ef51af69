"""Training recipes as frozen dataclasses, and the named ones. Needs only the standard library."""

from collections.abc import Callable

from rmt.recipes.ablations import ABLATIONS
from rmt.recipes.ade20k import ADE20K
from rmt.recipes.classify import ClassifyRecipe
from rmt.recipes.coco import COCO
from rmt.recipes.detect import DetectRecipe
from rmt.recipes.finetune import finetune, finetune_detect, finetune_segment
from rmt.recipes.imagenet import IMAGENET
from rmt.recipes.quickstart import quickstart
from rmt.recipes.recipe import Recipe, changes, from_dict
from rmt.recipes.segment import SegmentRecipe

#: Name of a recipe, as `rmt train NAME` takes it -> the function that returns it.
RECIPES: dict[str, Callable[[], Recipe]] = {
    "quickstart": quickstart,
    "finetune": finetune,
    **IMAGENET,
    **ABLATIONS,
    "finetune-detect": finetune_detect,
    **COCO,
    **ADE20K,
    "finetune-segment": finetune_segment,
}

__all__ = [
    "ABLATIONS",
    "ADE20K",
    "COCO",
    "IMAGENET",
    "RECIPES",
    "ClassifyRecipe",
    "DetectRecipe",
    "Recipe",
    "SegmentRecipe",
    "changes",
    "finetune",
    "finetune_detect",
    "finetune_segment",
    "from_dict",
    "quickstart",
]
