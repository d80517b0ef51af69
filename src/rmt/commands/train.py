"""`rmt train RECIPE [--field value]…` and `rmt train --resume RUN`."""

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from rmt.commands.libraries import import_quickly
from rmt.commands.recipes import recipe_lines
from rmt.errors import RMTError
from rmt.recipes import Recipe
from rmt.recipes.choice import choose_recipe
from rmt.recipes.recipe import AUTO, option
from rmt.terminal import say

_USAGE = """usage: rmt train RECIPE [DATA] [--field value]…      (rmt train RECIPE --help lists the fields)
       rmt train --resume RUN [--field value]… [--accept-changes]
       rmt train --resume RUN --minutes N          train it for N more minutes

Trains a network as a recipe says and leaves a run folder: weights, metrics, report.png.
RECIPE is a name below, or FILE.py:NAME for one of your own. DATA is the same as --data DATA.
"""


def run(recipe: str, /) -> int:
    """Train a network by a recipe, or continue a run (`rmt train --help`)."""
    return main([recipe])


def main(args: list[str]) -> int:
    """Reads the options, whose defaults are the recipe's, and trains."""
    import tyro

    started = time.monotonic()
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE)
        for line in recipe_lines():
            print(f"  {line}")
        return 0
    if args[0].startswith("--resume"):
        return _resume(args, started)
    if args[0].startswith("-"):
        print(f"rmt train: the recipe comes first, before {args[0]}\n\n{_USAGE}", file=sys.stderr)
        return 2
    recipe, description = choose_recipe(args[0])
    description += f"\n\nDirectly after the recipe's name --data may be left out: rmt train {args[0]} DATA"
    options = spell_out_flags(type(recipe), name_the_data(args[1:]))
    _prepare_help(type(recipe), options)
    chosen = tyro.cli(type(recipe), default=recipe, args=options, prog=f"rmt train {args[0]}", description=description)
    if problems := chosen.problems():  # refused before torch is imported, which takes a while
        raise RMTError("; ".join(problems))
    with announce_slow_import(f"rmt train {args[0]}: loading PyTorch …"), import_quickly():
        from rmt.tasks import task_named, train

        task_named(chosen.task)
    train(chosen, started=started)
    return 0


def _prepare_help(kind: type[Recipe], args: list[str]) -> None:
    if {"-h", "--help"} & set(args):
        from rmt.commands.task_help import unwrap_fields

        unwrap_fields(kind)


def name_the_data(options: list[str]) -> list[str]:
    """Returns the options with `--data` before a first word that is none.

    Raises RMTError if `--data` follows as well.
    """
    if not options or options[0].startswith("-"):
        return options
    if any(word.partition("=")[0] == "--data" for word in options):
        raise RMTError(f"{options[0]!r} after the recipe is the data already: leave out --data")
    return ["--data", *options]


@contextmanager
def announce_slow_import(line: str) -> Iterator[None]:
    """Prints the line if the body, which imports torch, takes more than two seconds, as on a busy machine."""

    def announce() -> None:
        with suppress(OSError):  # of a full disk: whatever this process prints next says so
            say(line, flush=True)

    timer = threading.Timer(2.0, announce)
    timer.daemon = True
    if is_first_process(os.environ):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_first_process(env: Mapping[str, str]) -> bool:
    """Whether this is the process of a run that prints, from what its launcher set; without importing torch."""
    return env.get("RANK", env.get("SLURM_PROCID", "0")) == "0"


def _resume(args: list[str], started: float) -> int:
    """Continues a run, with the recipe in its folder; fields given on the command line are changes to it."""
    import tyro

    from rmt.training.run_folder import RunFolder

    run = args[0].partition("=")[2] or (args[1] if len(args) > 1 else "")
    if not run or run.startswith("-"):
        print(f"rmt train: --resume needs the run's folder\n\n{_USAGE}", file=sys.stderr)
        return 2
    folder = RunFolder.open(Path(run))
    if folder.task not in {recipe.task for recipe in Recipe.__subclasses__()}:  # the task's package defines its recipe
        from rmt.tasks import task_named

        task_named(folder.task)
    recipe = folder.read_recipe()
    planned = recipe.minutes
    recipe = replace(recipe, minutes=0.0)  # on the command line they are minutes more
    _prepare_help(type(recipe), args)
    parsed: Any = tyro.cli(
        _resumption(type(recipe)),
        default=_resumption(type(recipe))(resume=run, recipe=recipe),
        args=spell_out_flags(type(recipe), args),
        prog="rmt train",
        description="Continue a run exactly where its last checkpoint was saved, or for more --minutes.",
    )
    with import_quickly():
        from rmt.tasks import resume

    minutes = parsed.recipe.minutes
    if minutes == AUTO or minutes < 0:
        raise RMTError(f"--minutes must be a number of minutes to continue the run for, not {minutes}")
    recipe = replace(parsed.recipe, minutes=planned)
    resume(Path(parsed.resume), recipe, accept_changes=parsed.accept_changes, minutes=minutes, started=started)
    return 0


def spell_out_flags(kind: type[Recipe], args: list[str]) -> list[str]:
    """Returns the options with `--field True` and `--field False` in place of the flags `--field` and `--no-field`.

    Only for the fields that are a truth value or "auto", which tyro knows no flags for.
    """
    hints = get_type_hints(kind)
    switches = {option(field.name) for field in fields(kind) if hints[field.name] == bool | Literal["auto"]}
    found: list[str] = []
    for word, following in zip(args, [*args, ""][1:], strict=True):
        name = word.replace("_", "-").removeprefix("--")
        if name.removeprefix("no-") in switches - {name}:
            found += ["--" + name.removeprefix("no-"), "False"]
        else:
            found.append(word)
            if name in switches and following not in ("auto", "True", "False"):
                found.append("True")
    return found


def _resumption(kind: type[Recipe]) -> type:
    """The options of `--resume` for a kind of recipe, its fields flat among them."""
    import tyro

    @dataclass(kw_only=True)
    class Resumption:
        resume: str
        """The run's folder."""
        recipe: tyro.conf.OmitArgPrefixes[kind]  # type: ignore[valid-type]
        accept_changes: bool = False
        """Resume even if this recipe, or the data, differ from those of the run."""

    return Resumption
