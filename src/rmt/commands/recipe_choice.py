"""From the word after `rmt train` to a recipe: a name of ours, or `file.py:NAME` for one of the user's."""

import difflib
import importlib.util
import inspect
import sys
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
    spec = importlib.util.spec_from_file_location("rmt_user_recipe", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's own code raises
        line = next((f":{e.tb_lineno}" for e in _frames(error) if e.tb_frame.f_code.co_filename == str(file)), "")
        raise RMTError(f"{file}{line}: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if found is None:
        names = [key for key, value in vars(module).items() if isinstance(value, Recipe)]
        raise RMTError(f"{file} defines no {name!r}" + (f"; it has {', '.join(names)}" if names else ""))
    recipe = found() if callable(found) else found
    if not isinstance(recipe, Recipe):
        raise RMTError(f"{file}:{name} is a {type(recipe).__name__}, not a recipe (see rmt.recipes.ClassifyRecipe)")
    return recipe, (inspect.getdoc(found) or "") if callable(found) else ""


def _frames(error: BaseException):
    """The traceback's entries, innermost first."""
    entries, current = [], error.__traceback__
    while current is not None:
        entries.append(current)
        current = current.tb_next
    return reversed(entries)
