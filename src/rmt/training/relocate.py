"""Relative paths of a run that is resumed from another folder than it was started in."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmt.recipes.recipe import Recipe

PATHS = ("data", "weights", "images", "annotations", "val_images", "val_annotations", "token_labels")
"""Fields of recipes that name files or folders."""


def find_again(recipe: Recipe, run: Path, started_in: str = "") -> Recipe:
    """Returns the recipe with the relative paths that do not exist here found again, where they do.

    They are looked for from the folder that the run was started in, and from each folder that contains the run's.

    Args:
        run: the run's folder.
        started_in: the working folder of its start, if its checkpoint tells it.
    """
    bases = [*([Path(started_in)] if started_in else []), *run.absolute().parents]
    given = {name: getattr(recipe, name) for name in PATHS if getattr(recipe, name, "")}
    found: dict[str, Any] = {name: _find(path, bases) for name, path in given.items()}
    return replace(recipe, **found)


def _find(path: str, bases: Iterable[Path]) -> str:
    if "://" in path or Path(path).is_absolute() or Path(path).exists():
        return path
    return next((str(base / path) for base in bases if (base / path).exists()), path)
