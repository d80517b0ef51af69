"""Resolve the RECIPE argument: a built-in name, or FILE.py:NAME."""

import difflib
import inspect
import runpy
import traceback
from pathlib import Path

from rmt.errors import RMTError
from rmt.recipes import RECIPES, Recipe


def choose_recipe(word: str) -> tuple[Recipe, str]:
    """The recipe and its description. Raises RMTError for an unknown name, naming the near ones."""
    if ".py:" in word:
        file, _, name = word.rpartition(":")
        return _from_file(Path(file), name)
    if word not in RECIPES:
        near = difflib.get_close_matches(word, RECIPES, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(RECIPES)}"
        raise RMTError(f"unknown recipe {word!r}: {hint} (`rmt recipes` describes them; FILE.py:NAME takes your own)")
    return RECIPES[word](), inspect.getdoc(RECIPES[word]) or ""


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
