"""Choose a recipe by a word, a built-in name or FILE.py:NAME, and change its fields."""

import inspect
import os
import runpy
import traceback
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from rmt.errors import RMTError
from rmt.recipes import RECIPES, Recipe
from rmt.suggestions import suggest


def choose_recipe(word: str) -> tuple[Recipe, str]:
    """The recipe and its description. Raises RMTError for an unknown name, naming the near ones."""
    if ".py:" in word:
        file, _, name = word.rpartition(":")
        return _from_file(Path(file), name)
    if word not in RECIPES:
        hint = suggest(word, RECIPES, f"there are {', '.join(RECIPES)}")
        if os.path.isdir(word):
            hint = f"it is a folder; name a recipe before it, e.g. finetune {word} for photos sorted into folders"
        raise RMTError(f"unknown recipe {word!r}: {hint} (`rmt recipes` describes them; FILE.py:NAME takes your own)")
    return RECIPES[word](), inspect.getdoc(RECIPES[word]) or ""


def change_fields(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """Returns the recipe with other values in these fields; paths and lists may be given as such.

    Raises RMTError for a field that it does not have, naming the near ones.
    """
    names = [field.name for field in fields(recipe)]
    for name in values:
        if name not in names:
            hint = suggest(name, names, "`rmt train RECIPE --help` lists them")
            raise RMTError(f"the recipe {recipe.name} has no field {name!r}: {hint}")
    plain: dict[str, Any] = {}
    for name, value in values.items():
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        plain[name] = tuple(value) if isinstance(value, list) else value
    return replace(recipe, **plain)


def _from_file(file: Path, name: str) -> tuple[Recipe, str]:
    """The recipe `name` of a Python file: a Recipe, or a function without arguments that returns one."""
    if not file.is_file():
        raise RMTError(f"there is no recipe file {file}")
    try:
        variables = runpy.run_path(str(file))
    except Exception as error:  # whatever the user's own code raises
        lines = [entry.lineno for entry in traceback.extract_tb(error.__traceback__) if entry.filename == str(file)]
        where = f"{file}:{lines[-1]}" if lines else str(file)
        raise RMTError(f"{where}: {type(error).__name__}: {error}") from error
    found = variables.get(name)
    if found is None:
        names = [key for key, value in variables.items() if isinstance(value, Recipe)]
        raise RMTError(f"{file} defines no {name!r}" + (f"; it has {', '.join(names)}" if names else ""))
    recipe = found() if callable(found) else found
    if not isinstance(recipe, Recipe):
        raise RMTError(f"{file}:{name} is a {type(recipe).__name__}, not a recipe (see rmt.recipes.ClassifyRecipe)")
    return recipe, (inspect.getdoc(found) or "") if callable(found) else ""
