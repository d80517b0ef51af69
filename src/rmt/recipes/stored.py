"""A recipe as JSON values and back, and what two recipes differ in."""

from dataclasses import fields
from typing import Any

from rmt.recipes.detect_recipe import DetectRecipe
from rmt.recipes.recipe import ClassifyRecipe, Recipe
from rmt.recipes.segment_recipe import SegmentRecipe

_TASKS: dict[str, type[Recipe]] = {kind.task: kind for kind in (ClassifyRecipe, DetectRecipe, SegmentRecipe)}


def from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe that `as_dict` wrote. Raises ValueError on an unknown task or field, TypeError on a missing one."""
    values = dict(values)
    task = values.pop("task", None)
    if task not in _TASKS:
        raise ValueError(f"task {task!r} is none of {', '.join(_TASKS)}")
    unknown = set(values) - {field.name for field in fields(_TASKS[task])}
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return _TASKS[task](**values)


def changes(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """The fields in which two recipes differ: name -> (old, new)."""
    before, after = old.as_dict(), new.as_dict()
    return {key: (before.get(key), after.get(key)) for key in after if before.get(key) != after.get(key)}
