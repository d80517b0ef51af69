"""Measures how long a training step and an evaluation take, with the network, the loader and the batches of a run."""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device

from rmt.training.distributed import processes
from rmt.training.evaluator import Evaluator
from rmt.training.module import TrainingModule

Clock = Callable[[], float]

MIN_STEPS = 3  # that are counted, unless they take longer than LIMIT
ENOUGH = 2.0  # seconds of steps after which no more are measured
LIMIT = 6.0  # seconds after which the step in progress is the last one, but for the second one, in training
EVALUATION_LIMIT = 3.0  # the same in evaluation
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Timing:
    """Seconds by the wall clock, which include the load of the machine by other processes.

    Attributes:
        step: one batch on every device: loading, forward, backward, update.
        image: the evaluation of one validation image on one device, by every network that is evaluated (raw, EMA).
    """

    step: float
    image: float

    def scaled(self, factor: float, batches: float = 1.0) -> "Timing":
        """The expected seconds of a network and image size of `factor` times the work, and `batches` as large ones."""
        return Timing(self.step * factor * batches, self.image * factor)


def measure(module: TrainingModule, device: torch.device, clock: Clock) -> Timing:
    """Trains a few steps with `module`, whose learning rate is set to 0, and evaluates a few images with it.

    With several processes all must call it, and the slowest one counts. Nothing is exchanged between them otherwise.
    """
    shard = dict(rank=processes.rank(), world_size=processes.world_size())
    module.to(device)
    local = Timing(_training_step(module, device, clock, shard), _evaluated_image(module, device, clock, shard))
    every = processes.all_gather(local)
    return Timing(max(timing.step for timing in every), max(timing.image for timing in every))


def _training_step(module: TrainingModule, device: torch.device, clock: Clock, shard: dict[str, int]) -> float:
    recipe = module.recipe
    optimizer = module.build_optimizer()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    module.train()

    def step(batch: dict[str, Any]) -> None:
        with _autocast(recipe.precision, device):
            loss = module.batch_loss(move_data_to_device(batch, device))
        loss.backward()
        if recipe.clip_grad:
            torch.nn.utils.clip_grad_norm_(module.model.parameters(), recipe.clip_grad)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if module.ema is not None:
            module.ema.update(module.model)
        loss.item()  # as the run does; on a GPU it waits for the step

    with contextlib.closing(module.data.train_loader(recipe, **shard)) as loader:
        seconds, steps = _time(loader, step, LIMIT, clock, lambda batch: 1)
    return seconds / steps


@torch.inference_mode()
def _evaluated_image(module: TrainingModule, device: torch.device, clock: Clock, shard: dict[str, int]) -> float:
    networks = module.networks()
    for network in networks.values():
        network.eval()

    def evaluate(batch: dict[str, Any]) -> None:
        batch = move_data_to_device(batch, device)
        with _autocast(module.recipe.precision, device):
            for kind, network in networks.items():
                cast(Evaluator, module.evaluators[kind]).update(network, batch)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    with contextlib.closing(module.data.val_loader(module.recipe, **shard)) as loader:
        seconds, images = _time(loader, evaluate, EVALUATION_LIMIT, clock, lambda batch: len(batch["index"]))
    return seconds / max(images, 1)


def _time(
    batches: Iterable[dict[str, Any]],
    work: Callable[[dict[str, Any]], None],
    limit: float,
    clock: Clock,
    size: Callable[[dict[str, Any]], int],
) -> tuple[float, int]:
    """Seconds for some batches, loading included, and their total size.

    The first batch, for which workers start and kernels are compiled, is not counted, unless it is the only one.
    """
    began = last = clock()
    measured: list[tuple[float, int]] = []
    for batch in batches:
        work(batch)
        now = clock()
        measured.append((now - last, size(batch)))
        last = now
        # The second one at least: the first one's seconds say little on a busy machine.
        if len(measured) > 1 and (now - began >= limit or (len(measured) > MIN_STEPS and now - began >= ENOUGH)):
            break
    counted = measured[1:] or measured
    return sum(seconds for seconds, _ in counted), sum(count for _, count in counted)


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    if precision not in _AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_AUTOCAST[precision])
