"""Reading the pages of the documentation, and their command lines."""

import importlib
import inspect
import re
import shlex
from pathlib import Path

import tyro

from rmt.commands.train import name_the_data, spell_out_flags
from rmt.recipes import Recipe
from rmt.recipes.choice import choose_recipe
from rmt.training.resolve import validate

ROOT = Path(__file__).parents[2]


def page(name: str) -> str:
    """The text of a page, by its path from the root of the checkout."""
    return (ROOT / name).read_text(encoding="utf-8")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def parse_command(line: str) -> object:
    """What `rmt` makes of a command line, without running it; a recipe is validated."""
    program, command, *args = shlex.split(line)
    assert program == "rmt"
    if command == "train" and args[0] == "--resume":
        return args[1]
    if command == "train":
        recipe, _ = choose_recipe(args[0])
        options = name_the_data([arg for arg in args[1:] if arg != "--help"])
        options = spell_out_flags(type(recipe), options)
        parsed: Recipe = tyro.cli(type(recipe), default=recipe, args=options)
        validate(parsed)
        return parsed
    run = importlib.import_module(f"rmt.commands.{command.replace('-', '_')}").run
    seen = {}

    def record(*args: object, **values: object) -> None:
        seen.update(values)

    record.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    record.__annotations__, record.__doc__ = run.__annotations__, run.__doc__
    tyro.cli(record, args=args)
    return seen
