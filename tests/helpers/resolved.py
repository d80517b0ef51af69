"""Recipes resolved, and modules built, as `rmt.train` does it, without training."""

from collections.abc import Callable
from typing import Any

from rmt.recipes import Recipe
from rmt.tasks import task_named
from rmt.training.machine import Machine
from rmt.training.resolve import resolve


def resolved(recipe: Recipe, log: Callable[[str], None] = lambda line: None) -> tuple[Any, Any]:
    """The resolved recipe and its data."""
    return resolve(recipe, Machine.detect(recipe), task_named(recipe.task), log=log)[:2]


def built(recipe: Recipe, log: Callable[[str], None] = lambda line: None) -> Any:
    """The module of a run that would begin now."""
    recipe, data = resolved(recipe)
    return task_named(recipe.task).build(recipe, data, fresh=True, log=log)
