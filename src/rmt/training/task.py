"""The interface between the trainer and a task.

The trainer knows no task by name: `train` and `resume` of `rmt.training.run` are given a `Task`. The registry of tasks
is `rmt.tasks.TASKS`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console

from rmt.training.checkpoints.weights import WeightFiles
from rmt.training.logging.history import History
from rmt.training.module import DataT, RecipeT, TrainingModule
from rmt.training.run_folder import RunFolder

__all__ = ["Candidate", "FinishedRun", "Planning", "Task"]

Log = Callable[[str], None]
ModuleT = TypeVar("ModuleT", bound="TrainingModule[Any, Any]")


@dataclass(frozen=True)
class FinishedRun:
    """What a run leaves for its task to evaluate and report.

    Attributes:
        folder: the run folder.
        history: writes rows of `metrics.csv`.
        files: writes the files of the weights.
        device: where the final weights are evaluated.
        precision: "fp32", "bf16" or "fp16".
        console: where progress is shown.
    """

    folder: RunFolder
    history: History
    files: WeightFiles
    device: torch.device
    precision: str
    console: Console


@dataclass(frozen=True)
class Candidate(Generic[RecipeT]):
    """A choice of network and sizes that `rmt.training.plan` may take.

    Attributes:
        recipe: with network, sizes and batch filled in; the length and what depends on it may be open.
        label: network and sizes in words.
        work: computation for one image, relative to the other candidates.
        images: training images, counted as often as they are shown, that this choice needs to be worth it.
        why_last: of the cheapest one: why none is cheaper, if that needs saying.
    """

    recipe: RecipeT
    label: str
    work: float
    images: int
    why_last: str = ""


@dataclass(frozen=True, kw_only=True)
class Planning(Generic[RecipeT, DataT]):
    """What a task provides for planning a run by time. All are pure functions.

    Attributes:
        fields: what a plan chooses; a recipe that leaves none of them open needs no plan.
        candidates: (recipe, data); the choices for what the recipe leaves open, from the best to the cheapest.
        set_length: (recipe, data, updates, evaluations); fills in the length, as far as the recipe leaves it open.
        length: (resolved recipe, data); its weight updates and evaluations.
        extend: (resolved recipe, evaluations); the recipe with a length of so many evaluations.
        length_is_open: (recipe); whether the length is to be chosen.
        final_images: (recipe, data, networks); images that are evaluated after the last epoch, counted for each
            network, when `networks` (raw and EMA) are evaluated in validation.
        advise_weights: (data); what the plan says about weights to start from, where the recipe has none.
        bfloat16: whether bfloat16 autocast on a CPU was measured to reach the accuracy of float32.
    """

    fields: tuple[str, ...]
    candidates: Callable[[RecipeT, DataT], Sequence[Candidate[RecipeT]]]
    set_length: Callable[[RecipeT, DataT, int, int], RecipeT]
    length: Callable[[RecipeT, DataT], tuple[int, int]]
    extend: Callable[[RecipeT, int], RecipeT]
    length_is_open: Callable[[RecipeT], bool]
    final_images: Callable[[RecipeT, DataT, int], int]
    advise_weights: Callable[[DataT], str] = lambda data: "--weights FILE to start from trained weights"
    bfloat16: bool = False


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
            the task's own, each an option of `rmt evaluate`; with `accuracy` also `predictor`, that of the checkpoint
            if it is loaded, which is used as it is.
        open_evaluation: (metadata of a model file, data, split or None); the images that it is evaluated on, a set with
            `load`, and which part of the data they are.
        accuracy: name of the metric that export compares, and the function that takes it from `evaluate`'s result, in
            percent.
        describe: what `evaluate` returned, as lines of text. Keywords, again, are options of `rmt evaluate`.
        planning: how to plan a run by time; None: the task's recipes leave nothing open.
        bulky: keys of `evaluate`'s result that are too large for the terminal.
    """

    open_data: Callable[[RecipeT], DataT]
    resolve: Callable[[RecipeT, DataT], RecipeT]
    build: Callable[..., ModuleT]
    finish: Callable[[ModuleT, FinishedRun], dict[str, Any]]
    summary: Callable[[dict[str, Any], RunFolder], list[str]]
    evaluate: Callable[..., dict[str, Any]]
    describe: Callable[..., list[str]]
    open_evaluation: Callable[..., Any] | None = None
    accuracy: tuple[str, Callable[[dict[str, Any]], float]] | None = None
    planning: Planning[RecipeT, DataT] | None = None
    bulky: tuple[str, ...] = ()
