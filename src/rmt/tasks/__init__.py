"""The tasks, and `train`, `resume` and `load` for users. `TASKS` lists the tasks."""

import importlib
from pathlib import Path
from typing import Any

from rmt.errors import RMTError
from rmt.inference import Predictor, load
from rmt.inference.classify import Prediction
from rmt.model import read_metadata
from rmt.recipes.choice import change_fields, choose_recipe
from rmt.recipes.recipe import Recipe
from rmt.training import run as trainer
from rmt.training.run import TrainingStopped, TrainResult
from rmt.training.run_folder import RunFolder
from rmt.training.task import Task

#: The registry: a task's name, which its recipes and model files carry, and the package whose `TASK` it is.
TASKS = {
    "classify": "rmt.tasks.classify",
    "detect": "rmt.tasks.detect",
    "segment": "rmt.tasks.segment",
}

__all__ = [
    "TASKS",
    "Prediction",
    "Predictor",
    "TrainResult",
    "TrainingStopped",
    "load",
    "resume",
    "task_named",
    "task_of_checkpoint",
    "train",
]


def task_named(name: str) -> Task[Any, Any, Any]:
    """Returns the task of that name, importing its package on first use. Raises RMTError when there is none."""
    if name not in TASKS:
        raise RMTError(f"no such task: {name!r}; there are {', '.join(TASKS)}")
    return importlib.import_module(TASKS[name]).TASK


def task_of_checkpoint(path: str | Path) -> tuple[str, Task[Any, Any, Any]]:
    """Returns the name and the task of a model file or run folder. Raises RMTError when it is none."""
    name = read_metadata(path)["task"]
    return name, task_named(name)


def train(recipe: Recipe | str, *, started: float | None = None, **fields: Any) -> TrainResult:
    """Trains as the recipe says, in a new run folder: `rmt.train("finetune", data="photos", epochs=10)`.

    Where processes are started by spawn (macOS, Windows, Python 3.14), a script calls it under
    `if __name__ == "__main__":`, since each data worker imports the script.

    Args:
        recipe: what to run; as a word a name that `rmt recipes` lists, or FILE.py:NAME.
        fields: values for fields of the recipe, as the options of `rmt train`.
        started: `time.monotonic()` when the run began, from which the recipe's `minutes` count; None: now.
    Returns:
        the run folder, and the scores in its `metrics.json`.
    Raises:
        RMTError: a mistake of the user, in one line.
        TrainingStopped: on Ctrl-C or SIGTERM, after the state was saved.
    """
    if isinstance(recipe, str):
        recipe, _ = choose_recipe(recipe)
    recipe = change_fields(recipe, fields)
    return trainer.train(recipe, task_named(recipe.task), started=started)


def resume(
    run: Path | str,
    recipe: Recipe | None = None,
    *,
    accept_changes: bool = False,
    minutes: float = 0.0,
    started: float | None = None,
) -> TrainResult:
    """Continues an interrupted run exactly where its last checkpoint was saved.

    Args:
        run: the run's folder.
        recipe: replaces the one in the folder. Fields that it leaves open keep the values of the run so far.
        accept_changes: continue although `recipe` differs in something that changes the result.
        minutes: train a finished or stopped run for so many more minutes, with a learning rate that falls once more;
            0: go on as the run would have.
        started: see `train`.

    Raises RMTError that names the changed fields when they are not accepted; otherwise raises as `train` does.
    """
    folder = RunFolder.open(Path(run))
    task = task_named(folder.task)
    return trainer.resume(folder, task, recipe, accept_changes=accept_changes, minutes=minutes, started=started)
