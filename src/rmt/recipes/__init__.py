"""Recipes: what a training run is, as plain dataclasses. Needs nothing but the standard library."""

from collections.abc import Callable

from rmt.recipes.classify import finetune, quickstart
from rmt.recipes.detect import COCO, finetune_detect
from rmt.recipes.detect_demos import demo_composites, demo_overfit, demo_trees
from rmt.recipes.detect_recipe import DetectRecipe
from rmt.recipes.imagenet import IMAGENET
from rmt.recipes.recipe import ClassifyRecipe, Recipe, changes, from_dict
from rmt.recipes.segment import SEGMENT
from rmt.recipes.segment_recipe import SegmentRecipe

#: The named recipes of `rmt train NAME`.
RECIPES: dict[str, Callable[[], Recipe]] = {
    "quickstart": quickstart,
    "finetune": finetune,
    **IMAGENET,
    "finetune-detect": finetune_detect,
    "demo-composites": demo_composites,
    "demo-trees": demo_trees,
    "demo-overfit": demo_overfit,
    **COCO,
    **SEGMENT,
}

__all__ = [
    "COCO",
    "IMAGENET",
    "RECIPES",
    "SEGMENT",
    "ClassifyRecipe",
    "DetectRecipe",
    "Recipe",
    "SegmentRecipe",
    "changes",
    "finetune",
    "finetune_detect",
    "from_dict",
    "quickstart",
]
