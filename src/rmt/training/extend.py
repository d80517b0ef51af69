"""Train a finished or stopped run for some more minutes: `rmt train --resume RUN --minutes N`.

The run keeps its weights, its optimiser state and the length of its epochs. It gets as many more epochs as fit the
minutes, over which the learning rate falls by a cosine from at least half of its peak to its final value (a warm
restart, as in SGDR).
"""

from dataclasses import replace
from typing import Any

import torch

from rmt.errors import RMTError
from rmt.terminal import plural
from rmt.training.batch import peak_lr
from rmt.training.distributed import processes
from rmt.training.logging.display import duration
from rmt.training.measure import Clock, measure
from rmt.training.plan import BUILD_SECONDS, decoding_seconds, evaluation_seconds
from rmt.training.task import Log, Task

LENGTH_FIELDS = {"epochs", "iterations", "restart_update", "restart_lr", "early_stopping"}
"""The fields that an extension changes."""


def extend(
    recipe: Any,
    data: Any,
    task: Task[Any, Any, Any],
    state: dict[str, Any] | None,
    minutes: float,
    device: torch.device,
    *,
    started: float,
    clock: Clock,
    log: Log,
) -> tuple[Any, float]:
    """Returns the recipe of a run that goes on from a checkpoint, and the seconds that it takes from `started`.

    The recipe is resolved and has the new length and the restart.

    Args:
        recipe, data, task: of the run; the recipe is resolved.
        state: the checkpoint.
        minutes: of the wall clock, from `started` to the end of the run.
        device: this process's.
        started: `clock()` when the command began.
        clock: seconds, `time.monotonic` but in tests.
        log: prints the line that says what was decided.
    Raises:
        RMTError: there is no checkpoint, or the task's runs cannot be extended.
    """
    if state is None or task.planning is None:
        why = (
            "the run has no checkpoint yet"
            if state is None
            else f"a run of the task {recipe.task!r} has a fixed length"
        )
        raise RMTError(f"--minutes cannot continue a run here: {why}; resume it without --minutes")
    planning, module = task.planning, task.build(recipe, data, fresh=False, log=lambda line: None)
    timing = measure(module, device, clock)
    start = processes.broadcast_from_main(lambda: clock() - started)
    start += BUILD_SECONDS + decoding_seconds(timing, recipe, data)
    update = timing.step * recipe.accumulate
    evaluation, end = evaluation_seconds(timing, recipe, data, planning)
    step, evaluations = int(state["global_step"]), int(state["rmt"]["progress"]["evaluations"])
    begun = step - evaluations * module.updates_per_epoch  # updates of an epoch that was interrupted
    left = 60 * minutes - start - end
    epoch = module.updates_per_epoch * update + evaluation
    fitting = max(int((left + begun * update) / epoch), 0)
    more = max(fitting, 1)
    rates = [group["lr"] for group in state["optimizer_states"][0]["param_groups"]]
    lr = max(peak_lr(recipe) / 2, *rates)
    recipe = planning.extend(recipe, evaluations + more)
    recipe = replace(recipe, restart_update=step, restart_lr=lr, early_stopping=0)
    took = start + more * epoch - begun * update + end
    log(
        f"continuing for {plural(minutes, 'minute')}: {plural(more, 'more evaluation')}, "
        f"{plural(more * module.updates_per_epoch - begun, 'update')} (measured {update:.3f} s each), "
        f"{duration(took)} in all{'' if fitting else ', as a run goes on until its next evaluation at least'}; the "
        f"learning rate falls by a cosine from {lr:.2e}"
    )
    return recipe, took
