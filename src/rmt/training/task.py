"""The interface between the trainer and a task.

The trainer knows no task by name: `train` and `resume` of `rmt.training.run` are given a `Task`. The registry of tasks
is `rmt.tasks.TASKS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console

from rmt.recipes.recipe import Recipe
from rmt.training.logging.history import History
from rmt.training.module import TrainingModule
from rmt.training.run_folder import RunFolder
from rmt.training.weight_files import WeightFiles

Log = Callable[[str], None]
RecipeT = TypeVar("RecipeT", bound=Recipe)
ModuleT = TypeVar("ModuleT", bound=TrainingModule)


@dataclass(frozen=True)
class FinishedRun:
    """What a run leaves for its task to evaluate and report."""

    folder: RunFolder
    history: History
    files: WeightFiles
    device: torch.device
    precision: str
    console: Console


@dataclass(frozen=True, kw_only=True)
class Task(Generic[RecipeT, ModuleT]):
    """The functions that one task provides. Each raises RMTError for a mistake of the user.

    Attributes:
        resolve: fills in what the recipe leaves open on this machine, before the data are read.
        build: (recipe, *, fresh: bool, log: Log); opens the data and builds the network, loads the weights to start
            from if `fresh` (not resumed). The module's recipe is the one that runs: nothing in it is open any more.
        finish: evaluates last, averaged and best weights; writes them with their scores, `metrics.json` and the report.
        summary: the closing lines of a run, from its `metrics.json`.
        evaluate: (checkpoint, data, *, device, precision, workers); scores a checkpoint, JSON values. More keywords are
            the task's own, each an option of `rmt evaluate`.
        describe: what `evaluate` returned, as lines of text. Keywords, again, are options of `rmt evaluate`.
        bulky: keys of `evaluate`'s result that are too large for the terminal.
    """

    resolve: Callable[[RecipeT], RecipeT]
    build: Callable[..., ModuleT]
    finish: Callable[[ModuleT, FinishedRun], dict[str, Any]]
    summary: Callable[[dict[str, Any], RunFolder], list[str]]
    evaluate: Callable[..., dict[str, Any]]
    describe: Callable[..., list[str]]
    bulky: tuple[str, ...] = ()
