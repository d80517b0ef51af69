"""Recipes: what a training run is, as plain dataclasses. Needs nothing but the standard library."""

from collections.abc import Callable

from rmt.recipes.classify import finetune, quickstart
from rmt.recipes.imagenet import IMAGENET
from rmt.recipes.schema import ClassifyRecipe, Recipe
from rmt.recipes.stored import changes, from_dict

#: The named recipes of `rmt train NAME`.
RECIPES: dict[str, Callable[[], Recipe]] = {"quickstart": quickstart, "finetune": finetune, **IMAGENET}

__all__ = ["IMAGENET", "RECIPES", "ClassifyRecipe", "Recipe", "changes", "finetune", "from_dict", "quickstart"]
