"""Seconds of a training step of networks of a table of `evidence.py`, in turn: `python step_times.py TABLE FILE ROW…`.

Each network trains as its runs do, but at a learning rate of 0, on one batch that is loaded beforehand: forward pass,
backward pass and update count, loading and evaluation do not. The JSON FILE has for each ROW the steps of an epoch, the
seconds of a step in each round, their median, and the multiply-adds of the network for an image.
"""

import json
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

import tyro
from evidence_tables import TABLES

from rmt.commands.train import spell_out_flags
from rmt.model.cost import count_macs
from rmt.recipes.choice import choose_recipe
from rmt.tasks import task_named
from rmt.training.machine import Machine
from rmt.training.measure import training_step
from rmt.training.network import configure_network
from rmt.training.resolve import resolve

ROUNDS = 7
SECONDS = 0.5  # of steps of one network in a round, at least
WARM_UP = 3  # steps


def prepare(command: str) -> tuple[Callable[[], None], int, int]:
    """What trains one step of the run that a command `rmt train …` makes, its steps in an epoch, its multiply-adds."""
    _, _, name, *words = command.split()
    recipe, _ = choose_recipe(name)
    recipe = tyro.cli(type(recipe), default=recipe, args=spell_out_flags(type(recipe), words))
    machine, task = Machine.detect(recipe), task_named(recipe.task)
    recipe, data, _ = resolve(recipe, machine, task)
    module = task.build(recipe, data, fresh=True, log=lambda line: None)
    configure_network(module.model, recipe, machine.torch_device)
    step = training_step(module.to(machine.torch_device), machine.torch_device)
    module.train()
    with closing(module.data.train_loader(recipe)) as loader:
        batch, steps = next(iter(loader)), len(loader)
    return lambda: step(batch), steps, count_macs(module.model, recipe.image_size, recipe.image_size)


def seconds(step: Callable[[], None], least: float) -> float:
    """The mean seconds of steps that take at least so long together."""
    began, steps = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < least or not steps:
        step()
        steps += 1
    return passed / steps


def measure(table: str, rows: list[str]) -> dict[str, dict[str, object]]:
    """The entry of each row, for the results of `evidence.py`."""
    prepared = {row: prepare(TABLES[table].command(row, 1, 0)) for row in rows}
    for step, *_ in prepared.values():
        for _ in range(WARM_UP):
            step()
    rounds: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(ROUNDS):
        for row, (step, *_) in prepared.items():
            rounds[row].append(round(seconds(step, SECONDS), 6))
    return {
        row: dict(step_seconds=median(rounds[row]), steps_per_epoch=steps, macs=macs, rounds=rounds[row])
        for row, (_, steps, macs) in prepared.items()
    }


if __name__ == "__main__":
    table, file, *rows = sys.argv[1:]
    Path(file).write_text(json.dumps(measure(table, rows)))
