"""The interface between the trainer and a task.

The trainer knows no task by name: `train` and `resume` of `rmt.training.run` are given a `Task`. The registry of tasks
is `rmt.tasks.TASKS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console

from rmt.training.checkpoints.weights import WeightFiles
from rmt.training.logging.history import History
from rmt.training.module import DataT, RecipeT, TrainingModule
from rmt.training.run_folder import RunFolder

Log = Callable[[str], None]
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
class Task(Generic[RecipeT, DataT, ModuleT]):
    """The functions that one task provides. Each raises RMTError for a mistake of the user.

    Attributes:
        open_data: opens the data that the recipe names. Called in every process of the run.
        resolve: (recipe, data); fills in what the recipe still leaves open, a pure function of both. The machine's part
            and the network's name are there already, see `rmt.training.resolve`.
        build: (recipe, data, *, fresh: bool, log: Log); the module with its network for the resolved recipe. Loads the
            weights to start from if `fresh` (not resumed).
        finish: evaluates last, averaged and best weights; writes them with their scores, `metrics.json` and the report.
        summary: the closing lines of a run, from its `metrics.json`.
        evaluate: (checkpoint, data, *, device, precision, workers); scores a checkpoint, JSON values. More keywords are
            the task's own, each an option of `rmt evaluate`.
        describe: what `evaluate` returned, as lines of text. Keywords, again, are options of `rmt evaluate`.
        bulky: keys of `evaluate`'s result that are too large for the terminal.
    """

    open_data: Callable[[RecipeT], DataT]
    resolve: Callable[[RecipeT, DataT], RecipeT]
    build: Callable[..., ModuleT]
    finish: Callable[[ModuleT, FinishedRun], dict[str, Any]]
    summary: Callable[[dict[str, Any], RunFolder], list[str]]
    evaluate: Callable[..., dict[str, Any]]
    describe: Callable[..., list[str]]
    bulky: tuple[str, ...] = ()
