"""Measures how long a training step and an evaluation take, with the network, the loader and the batches of a run."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, cast

import torch
from lightning.fabric.utilities import move_data_to_device

from rmt.data.loader import BATCHES_AHEAD, BatchLoader
from rmt.data.memory import CachedSet
from rmt.training.distributed import processes
from rmt.training.evaluator import Evaluator
from rmt.training.module import TrainingModule
from rmt.training.network import configure_network

Clock = Callable[[], float]

WARM_UP = 2  # batches that are not counted, where there are more than three
MIN_STEPS = 3  # that are counted, unless they take longer than LIMIT
ENOUGH = 3.0  # seconds of steps after which no more are measured
LIMIT = 6.0  # seconds after which the step in progress is the last one, but for the second one, in training
EVALUATION_LIMIT = 3.0  # the same in evaluation
LOADING_LIMIT = 2.0  # seconds of waiting for batches alone
CONSTANT_SHARE = 0.5  # of a step's seconds, before a second choice is measured
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Timing:
    """Seconds by the wall clock, which include the load of the machine by other processes.

    Attributes:
        step: one batch on every device: loading, forward, backward, update.
        image: the evaluation of one validation image on one device, by every network that is evaluated (raw, EMA).
        decoding: reading an image for the first time, if it is kept in memory then, and if the training process does
            that itself. Not part of the others.
    """

    step: float
    image: float
    decoding: float = 0.0


@dataclass(frozen=True)
class Measured:
    """A timing, and the work of an image and the images of a step that it is of."""

    work: float
    batch: int
    timing: Timing


def predict(measured: Sequence[Measured], work: float, batch: int) -> Timing:
    """The expected seconds of steps of `batch` images with that work, from measured ones; see `_line`."""
    steps = [(known.work * known.batch, known.timing.step) for known in measured]
    image = _line([(known.work, known.timing.image) for known in measured], work)
    return Timing(_line(steps, work * batch), image, max(known.timing.decoding for known in measured))


def _line(points: Sequence[tuple[float, float]], x: float) -> float:
    """The value at `x` of the line through the two nearest of `points`, (work, seconds).

    Small networks spend much of their time on what does not grow with the images: the calls of many small operations.
    Of a single point, half of the seconds are taken to be constant. The line never falls, and never rises more than in
    proportion, whatever was measured on a busy machine.
    """
    (near, seconds), *others = sorted(points, key=lambda point: abs(point[0] - x))
    proportional = seconds / near
    other = next((point for point in others if point[0] != near), None)
    slope = CONSTANT_SHARE * proportional if other is None else (other[1] - seconds) / (other[0] - near)
    return seconds + min(max(slope, 0.0), proportional) * (x - near)


def measure(module: TrainingModule[Any, Any], device: torch.device, clock: Clock) -> Timing:
    """Trains a few steps with `module`, whose learning rate is set to 0, and evaluates a few images with it.

    With several processes all must call it, and the slowest one counts. Nothing is exchanged between them otherwise.
    """
    shard = dict(rank=processes.rank(), world_size=processes.world_size())
    # Without what takes minutes to compile, or exchanges statistics with other processes.
    configure_network(module.model, replace(module.recipe, compile=False, sync_batchnorm=False), device)
    module.to(device)
    # Evaluation first: its larger batches let the allocator keep the memory that training asks for in every step. Until
    # then glibc returns it to the system, and its pages are zeroed again, which takes up to a fifth of a step on a CPU.
    image = _evaluated_image(module, device, clock, shard)
    step, decoding = _step_seconds(module, device, clock, shard)
    every = processes.all_gather(Timing(step, image, decoding))
    return Timing(*(max(values) for values in zip(*map(astuple, every), strict=True)))


def training_step(module: TrainingModule[Any, Any], device: torch.device) -> Callable[[dict[str, Any]], None]:
    """Returns what trains with a batch as a run does, but at a learning rate of 0, and returns when that is done."""
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

    return step


def _step_seconds(
    module: TrainingModule[Any, Any], device: torch.device, clock: Clock, shard: dict[str, int]
) -> tuple[float, float]:
    """`step` and `decoding` of `Timing`."""
    step = training_step(module, device)
    with contextlib.closing(module.data.train_loader(module.recipe, **shard)) as loader:
        batches = iter(loader)
        seconds, steps, images, decoding = _time(batches, loader, step, LIMIT, clock)
        loading = _loading_seconds(batches, loader.workers, clock)
    return max(seconds / steps, loading), decoding / max(images, 1)


@torch.no_grad()  # not inference mode: what the network caches in its first pass is for training, too
def _evaluated_image(
    module: TrainingModule[Any, Any], device: torch.device, clock: Clock, shard: dict[str, int]
) -> float:
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
        seconds, _, images, _ = _time(_twice(loader, clock), loader, evaluate, EVALUATION_LIMIT, clock)
    return seconds / max(images, 1)


def _twice(loader: BatchLoader, clock: Clock) -> Iterator[dict[str, Any]]:
    """The batches of the loader, a second time if they are few, so that some are timed after the warm-up.

    Without it a small last batch would be timed with the compilation of a GPU's kernels for its size.
    """
    began = clock()
    yield from loader
    if len(loader) < WARM_UP + MIN_STEPS and clock() - began < EVALUATION_LIMIT:
        yield from loader


def _loading_seconds(batches: Iterator[dict[str, Any]], workers: int, clock: Clock) -> float:
    """Seconds per batch of workers that nothing keeps waiting, the least that a step takes; 0 if too few are left.

    Batches that the workers made during the first steps, which are slow, lie ready and are not counted.
    """
    ready = BATCHES_AHEAD * workers
    began = start = clock()
    for number, _ in enumerate(batches if workers else (), start=1):
        now = clock()
        if number <= ready:
            start = now
        if number == 2 * ready or now - began >= LOADING_LIMIT:
            return (now - start) / (number - ready) if number > ready else (now - began) / number
    return 0.0


def _time(
    batches: Iterable[dict[str, Any]],
    loader: BatchLoader,
    work: Callable[[dict[str, Any]], None],
    limit: float,
    clock: Clock,
) -> tuple[float, int, int, float]:
    """Seconds for some batches, number of batches and images, and seconds of decoding images that are kept from then.

    The seconds include loading, without that decoding. The first two batches, for which workers start, kernels are
    compiled and memory is touched for the first time, are not counted; of two or three batches the first one, and a
    single one is.
    """
    images_of = getattr(loader, "image_set", loader.samples)
    samples = images_of if isinstance(images_of, CachedSet) else None

    def decoding() -> float:
        return 0.0 if samples is None else samples.decoding_seconds

    began = last = clock()
    before = decoding()
    measured: list[tuple[float, int, float]] = []
    for batch in batches:
        work(batch)
        now, decoded = clock(), decoding()
        measured.append((now - last, len(batch["index"]), decoded - before))
        last, before = now, decoded
        # The second one at least: the first one's seconds say little on a busy machine.
        if len(measured) > 1 and (
            now - began >= limit or (len(measured) >= WARM_UP + MIN_STEPS and now - began >= ENOUGH)
        ):
            break
    counted = measured[min(WARM_UP, len(measured) // 2) :]
    seconds, images, decoded = map(sum, zip(*counted, strict=True))
    kept = decoded * samples.kept_share() if samples is not None else 0.0
    return seconds - kept, len(counted), images, kept


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    if precision not in _AUTOCAST:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_AUTOCAST[precision])
