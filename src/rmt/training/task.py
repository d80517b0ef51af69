"""The seam between the one trainer and its tasks: what `train`, `evaluate`, `predict` and `load` ask of a task.

A task is a package `rmt.tasks.NAME`, NAME being the recipe's and the model file's `task`; its `TASK` is one of these.
"""

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console

from rmt.errors import RMTError
from rmt.inference.predictions import Answer
from rmt.model import read_metadata
from rmt.recipes.recipe import Recipe
from rmt.training.logging.history import History
from rmt.training.module import TrainingModule
from rmt.training.run_folder import RunFolder
from rmt.training.weight_files import WeightFiles

TASKS = ("classify", "detect", "segment")
"""The packages that hold one."""

Say = Callable[[str], None]
RecipeT = TypeVar("RecipeT", bound=Recipe)
ModuleT = TypeVar("ModuleT", bound=TrainingModule)


@dataclass(frozen=True)
class Trained:
    """What a run leaves for its task to judge and report."""

    folder: RunFolder
    history: History
    files: WeightFiles
    device: torch.device
    precision: str
    console: Console


@dataclass(frozen=True, kw_only=True)
class Task(Generic[RecipeT, ModuleT]):
    """One task: the functions that are its own. Each raises RMTError for what the user can mend.

    Attributes:
        settle: fills in what the recipe leaves open on this machine, before the data are read.
        prepare: (recipe, *, fresh: bool, say: Say); opens the data and builds the network, loads the weights to start
            from if `fresh` (not resumed). The module's recipe is the one that runs: nothing in it is open any more.
        finish: judges last, averaged and best weights; writes them with their scores, `metrics.json` and the report.
        summary: the closing lines of a run, from its `metrics.json`.
        load: (path, *, device, precision); the trained network in a file, with what it takes to use it. More keywords
            are the task's own.
        evaluate: (checkpoint, data, *, device, precision, workers); scores a checkpoint, JSON values. More keywords are
            the task's own, each an option of `rmt evaluate`.
        describe: what `evaluate` returned, for people. Keywords, again, are options of `rmt evaluate`.
        bulky: keys of `evaluate`'s result that are too large for the terminal.
        answer: (network, image); one image's answer by what `load` returned. More keywords are the task's own, each an
            option of `rmt predict`. Raises BadImage for an unreadable image.
        draws: whether its answers come with pictures.
        document: (network, [(image, answer), …]); what a file of all answers together holds, where there is to be one.
    """

    settle: Callable[[RecipeT], RecipeT]
    prepare: Callable[..., ModuleT]
    finish: Callable[[ModuleT, Trained], dict[str, Any]]
    summary: Callable[[dict[str, Any], RunFolder], list[str]]
    load: Callable[..., Any]
    evaluate: Callable[..., dict[str, Any]]
    describe: Callable[..., list[str]]
    bulky: tuple[str, ...]
    answer: Callable[..., Answer]
    draws: bool = False
    document: Callable[[Any, Sequence[tuple[Path, Answer]]], dict[str, Any]] | None = None


def task_named(name: str) -> Task:
    """The task of that name. Raises RMTError when there is none."""
    if name not in TASKS:
        raise RMTError(f"no such task: {name!r}; there are {', '.join(TASKS)}")
    return importlib.import_module(f"rmt.tasks.{name}").TASK


def task_of_checkpoint(path: str | Path) -> tuple[str, Task]:
    """The name and the task of a model file or run folder."""
    name = read_metadata(path)["task"]
    return name, task_named(name)


def options_for(function: Callable, given: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The options that were given (are not None). Raises RMTError for one that `function` does not take."""
    chosen = {key: value for key, value in given.items() if value is not None}
    if unknown := set(chosen) - set(inspect.signature(function).parameters):
        raise of_no_use(unknown, path)
    return chosen


def of_no_use(options: Collection[str], path: str | Path) -> RMTError:
    """The refusal of options that other tasks have."""
    names = ", ".join(f"--{key.replace('_', '-')}" for key in sorted(options))
    return RMTError(f"{names}: {path} has no use for it, being a model for the task {read_metadata(path)['task']!r}")


def unreadable_lines(bad: dict[str, str], most: int = 5) -> list[str]:
    """The first few images that an evaluation passed over (name -> reason), and how many there are."""
    lines = [f"passed over: {name} ({reason})" for name, reason in list(bad.items())[:most]]
    return lines + ([f"… {len(bad)} unreadable images in all"] if len(bad) > most else [])


def load(path: str | Path, **options: Any) -> Any:
    """The trained network in a `.safetensors` file, or the best one of a run folder, ready for images.

    What comes back depends on the file's task: a `Predictor` for a classifier. `options` are those of that task's
    `load`, `device` and `precision` among them. Raises RMTError when the file is no model of ours.
    """
    return task_of_checkpoint(path)[1].load(path, **options)
