"""Resolve a recipe, here only: everything that it leaves open is filled in, before the run begins.

A recipe as written may leave fields open ("auto", or a 0 that asks for a choice). They are decided by the machine, by
the weights that the run starts from, and by the data. The resolved recipe is the one that runs: the run folder, the
checkpoints, the weight files and the LightningModule all hold it.
"""

import os
import time
from dataclasses import replace
from typing import Any, cast

from rmt.device import choose_precision
from rmt.errors import RMTError
from rmt.recipes.recipe import AUTO, Precision, Recipe, option
from rmt.terminal import plural
from rmt.training.batch import resolve_ema_decay, share_batch
from rmt.training.machine import Machine
from rmt.training.module import RecipeT
from rmt.training.network import inherit_options, resolve_network
from rmt.training.plan import Planner, needs_plan
from rmt.training.task import Log, Task

_MINUTES = {"cpu": 15.0}
_GPU_MINUTES = 60.0
_MOST_WORKERS = {"cpu": 2}  # of one process
_MOST_GPU_WORKERS = 16


def validate(recipe: Recipe) -> None:
    """Raises RMTError that names every impossible value of the recipe."""
    if problems := recipe.wrong_types() or recipe.problems():
        raise RMTError("; ".join(problems))


def resolve(
    recipe: RecipeT,
    machine: Machine,
    task: Task[RecipeT, Any, Any],
    *,
    started: float | None = None,
    log: Log = lambda line: None,
) -> tuple[RecipeT, Any, float | None]:
    """Returns the recipe that runs, its data, opened, and the seconds that it is planned to take; None without a plan.

    The machine's part comes first, then the plan for the recipe's minutes, if there are any, then the task's part,
    which depends on the data. Raises RMTError for whatever is wrong with machine, weights or data, and for values that
    are impossible together once they are all known.

    Args:
        recipe, machine, task: what to run, where, and how.
        started: `time.monotonic()` when the run began, from which its minutes count; None: now.
        log: prints the lines of the plan.
    """
    started = time.monotonic() if started is None else started
    open_precision = recipe.precision == AUTO
    recipe = inherit_options(resolve_machine(recipe, machine), log)
    planned, batch = needs_plan(recipe, task), recipe.batch_size
    if not planned or recipe.model != AUTO or recipe.weights or recipe.model_args:
        recipe = resolve_network(recipe)  # before the data are read, which may take a while
    data, seconds = task.open_data(recipe), None
    if planned:
        planner = Planner(recipe, data, task, machine.torch_device, started, time.monotonic)
        recipe, seconds = planner.plan(log, open_precision=open_precision)
    given, recipe = recipe, resolve_ema_decay(task.resolve(resolve_network(recipe), data))
    for name in ("warmup_epochs", "warmup_iterations"):
        length, taken = getattr(given, name, None), getattr(recipe, name, None)
        if length != taken and not given.is_open(name):
            log(f"--{option(name)} {length:g} is longer than the run: a warm-up of {taken:g} is taken")
    if batch != AUTO and recipe.batch_size < batch:
        log(f"batch of {recipe.batch_size} instead of {batch}: only {plural(len(data.train), 'image')} to train on")
    validate(recipe)
    assert not recipe.open_fields()
    return recipe, data, seconds


def resolve_machine(recipe: RecipeT, machine: Machine) -> RecipeT:
    """Returns the recipe with devices, workers, precision, and the batch of one device filled in.

    A resolved one is returned unchanged.

    Raises RMTError when the effective batch cannot be shared by the devices, and for a precision that the device lacks.
    """
    precision = choose_precision(recipe.precision, machine.torch_device)
    devices = machine.devices if recipe.devices == "auto" else recipe.devices
    return share_batch(
        replace(
            recipe,
            device=machine.device if recipe.device == "auto" else recipe.device,
            devices=devices,
            nodes=recipe.nodes or machine.nodes,
            strategy="ddp" if recipe.strategy == "auto" else recipe.strategy,
            precision=cast(Precision, precision),
            workers=_spare_cores(machine.device, devices) if recipe.is_open("workers") else recipe.workers,
            minutes=_MINUTES.get(machine.device, _GPU_MINUTES) if recipe.is_open("minutes") else recipe.minutes,
        )
    )


def _spare_cores(device: str, devices: int) -> int:
    """The worker processes of each of `devices` processes: the cores that it may use, but for its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // devices - 1, 0), _MOST_WORKERS.get(device, _MOST_GPU_WORKERS))


def resolve_resumed(recipe: RecipeT, original: Recipe, machine: Machine) -> RecipeT:
    """Returns the recipe of a resumed run with its machine's part filled in.

    Fields that it leaves open keep the values of `original`, the recipe of the checkpoint, except for the devices:
    those are the ones at hand now. With an effective batch the accumulation of `original` was computed for its devices:
    it is computed again, unless the recipe gives another one.
    """
    kept = set(recipe.open_fields()) - {"device", "devices", "nodes"}
    recipe = replace(recipe, **{name: getattr(original, name) for name in kept})
    if recipe.effective_batch and recipe.accumulate == original.accumulate:
        recipe = replace(recipe, accumulate=1)
    return resolve_machine(recipe, machine)
