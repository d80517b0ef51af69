"""`rmt recipes [NAME]`: the named recipes in a line each, or what one costs and reaches."""

import inspect
from typing import Annotated

import tyro

from rmt.recipes import RECIPES
from rmt.recipes.choice import choose_recipe


def run(name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = "", /) -> None:
    """List the recipes of `rmt train`, or describe one: its cost, its accuracy, its command.

    Args:
        name: A recipe's name, or FILE.py:NAME.
    """
    if name:
        recipe, description = choose_recipe(name)
        print(
            description
            or f"{name}: a {recipe.task} recipe without a docstring; `rmt train {name} --help` lists its fields"
        )
        return
    for line in recipe_lines():
        print(line)
    print("\n`rmt recipes NAME` says what one costs and reaches, `rmt train NAME --help` lists its fields.")


def recipe_lines() -> list[str]:
    """A line per recipe: its name, and the first sentence of its description."""
    width = max(map(len, RECIPES))
    # The first paragraph, since a sentence may run on into the next line.
    first = {name: " ".join((inspect.getdoc(make) or "").split("\n\n")[0].split()) for name, make in RECIPES.items()}
    return [f"{name:<{width}}  {text}" for name, text in first.items()]
