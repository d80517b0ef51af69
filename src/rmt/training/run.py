"""Trains a recipe into a run folder, and resumes an interrupted run."""

import contextlib
import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.console import Console

from rmt.data.randomness import seed_process
from rmt.errors import RMTError
from rmt.model import describe_weights
from rmt.plain_output import allow_any_encoding
from rmt.recipes.recipe import Recipe, changes, from_dict
from rmt.terminal import log_to, plural
from rmt.training.checkpoints.callback import Interrupted, StateCheckpoint
from rmt.training.checkpoints.contents import check_state
from rmt.training.checkpoints.io import AtomicCheckpointIO, load_newest_state
from rmt.training.checkpoints.weights import WeightFiles
from rmt.training.data_record import record_data, require_same_data
from rmt.training.distributed import processes
from rmt.training.distributed.launch import process_group
from rmt.training.extend import LENGTH_FIELDS, extend
from rmt.training.logging.display import Display
from rmt.training.logging.history import History, NoHistory
from rmt.training.machine import Machine
from rmt.training.main_guard import require_main_guard
from rmt.training.module import TrainingModule
from rmt.training.network import configure_network, require_same_network
from rmt.training.profile import OptimiserMark, StepProfile
from rmt.training.recorder import Recorder
from rmt.training.relocate import find_again
from rmt.training.rescale import EpochLength, continue_schedule, rescale_state, rescaled_update
from rmt.training.resolve import resolve, resolve_machine, resolve_resumed, validate
from rmt.training.run_folder import RunFolder, read_json
from rmt.training.show_batch import draw_batch
from rmt.training.task import FinishedRun, Task
from rmt.training.trainer import build_trainer, filter_library_warnings

#: Fields that may differ on resume, since the result does not depend on them.
IRRELEVANT = {"name", "output", "workers", "checkpoint_minutes", "profile", "show_batch"}

#: Where the data lie, which does not matter either where the run has a record of them: see `require_same_data`.
PATHS = {"data", "images", "annotations", "val_images", "val_annotations"}


class TrainingStopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM ended the run, after its state was saved. The message is the command that resumes it.

    Attributes:
        signal_number: the signal, such as `signal.SIGTERM`.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        folder: the run folder.
        metrics: the content of its `metrics.json`.
    """

    folder: Path
    metrics: dict[str, Any]


def train(recipe: Recipe, task: Task[Any, Any, Any], *, started: float | None = None) -> TrainResult:
    """Trains as the recipe says, in a new run folder. See `rmt.train`."""
    started = time.monotonic() if started is None else started
    validate(recipe)
    require_main_guard(recipe.workers)
    machine = Machine.detect(recipe)
    with process_group(machine):
        # Before the data are read, which may take a while.
        processes.broadcast_from_main(lambda: RunFolder.require_empty(recipe))
        if recipe.weights:
            describe_weights(recipe.weights)
        module, run = _fit(recipe, machine, task, _console(), started=started)
    return _finish(module, run, task)


def resume(
    folder: RunFolder,
    task: Task[Any, Any, Any],
    recipe: Recipe | None = None,
    *,
    accept_changes: bool = False,
    minutes: float = 0.0,
    started: float | None = None,
) -> TrainResult:
    """Continues a run exactly where its last checkpoint was saved, or for more minutes. See `rmt.tasks.resume`."""
    started = time.monotonic() if started is None else started
    recipe = recipe or folder.read_recipe()
    validate(recipe)
    require_main_guard(recipe.workers)
    machine = Machine.detect(recipe)
    with process_group(machine), _lock(folder):
        console = _console()
        with processes.main_process_first():
            state, complaint = load_newest_state(folder.state)
            if state is not None:
                check_state(state, folder.state)
        if complaint:
            log_to(console, f"warning: {complaint}")
        original = folder.read_recipe() if state is None else from_dict(state["rmt"]["recipe"])
        started_in = "" if state is None else state["rmt"].get("folder", "")
        recipe, original = (find_again(r, folder.path, started_in) for r in (recipe, original))
        recipe = resolve_resumed(replace(recipe, output=str(folder.path)), original, machine)
        if state is not None:
            require_same_network(recipe, original)
        changed = changes(resolve_machine(original, machine), recipe)
        # An extension that was interrupted before its first checkpoint: the folder's recipe is newer.
        extended = state is not None and 0 < recipe.restart_update == int(state["global_step"])
        ignored = IRRELEVANT | (LENGTH_FIELDS if extended else set()) | (PATHS if folder.data.exists() else set())
        listed = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in changed.items() if key not in ignored)
        if listed and not accept_changes:
            raise RMTError(
                f"the recipe differs from that of {folder.path}: {listed}; pass --accept-changes to resume anyway"
            )
        if listed:
            log_to(console, f"recipe changed: {listed}")
        elif folder.metrics_json.exists() and not minutes:
            try:
                metrics = read_json(folder.metrics_json)
                lines = ["this run is complete", *task.summary(metrics, folder)]
            except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
                raise RMTError(
                    f"{folder.metrics_json}: not as a run writes it; remove the file to evaluate the run again"
                ) from error
            log_to(console, "\n".join(lines))
            return TrainResult(folder.path, metrics)
        if state is None:
            log_to(console, "no checkpoint was saved yet: starting from the beginning")
        module, run = _fit(
            *(recipe, machine, task, console, folder, state),
            resolve_machine(original, machine) if changed else recipe,
            started=started,
            minutes=minutes,
            accept_changes=accept_changes,
        )
    return _finish(module, run, task)


def _fit(
    recipe: Recipe,
    machine: Machine,
    task: Task[Any, Any, Any],
    console: Console,
    folder: RunFolder | None = None,
    state: dict[str, Any] | None = None,
    original: Recipe | None = None,
    *,
    started: float,
    minutes: float = 0.0,
    accept_changes: bool = False,
) -> tuple[TrainingModule[Any, Any], FinishedRun]:
    """Resolves the recipe, builds everything and trains; in every process.

    Args:
        recipe, machine, task, console: what to run, where, and where to print.
        folder, state: of a resumed run; without a checkpoint it starts from the beginning.
        original: the recipe of the checkpoint.
        started: `time.monotonic()` when the command began.
        minutes: extend the run by so many.
        accept_changes: resume although the data have changed.
    """
    filter_library_warnings()
    log = functools.partial(log_to, console)
    recipe, data, planned = resolve(recipe, machine, task, started=started, log=log)
    if folder is not None and processes.is_main_process():
        require_same_data(folder, data, accept_changes, log)
    now = EpochLength(data.batches_per_epoch(recipe), recipe.accumulate)
    before = now if state is None else EpochLength.of(state)
    if before != now and not accept_changes:  # other data, with no record of those before
        raise RMTError(
            f"the checkpoint is of a run with {plural(before.updates, 'update')} per epoch, and there are "
            f"{now.updates:,} now: restore the data, or pass --accept-changes to resume with them"
        )
    if state is not None:
        recipe = continue_schedule(recipe, original, state, before, now, log)
    if minutes:
        place: dict[str, Any] = dict(device=machine.torch_device, started=started, clock=time.monotonic, log=log)
        recipe, planned = extend(recipe, data, task, state, minutes, **place)
    seed_process(recipe.seed)
    module = task.build(recipe, data, fresh=state is None, log=log)
    configure_network(module.model, recipe, machine.torch_device)

    if folder is None:
        folder = RunFolder(processes.broadcast_from_main(lambda: RunFolder.create(recipe).path))
    elif processes.is_main_process():
        folder.remove_temporary_files()
        if minutes:  # an extended run is complete when its metrics are written anew
            folder.metrics_json.unlink(missing_ok=True)
        folder.write_recipe(recipe)
    digests = processes.broadcast_from_main(functools.partial(record_data, folder, data))
    facts = module.file_facts() | {"data": digests}
    files = WeightFiles(folder.path, module.model, data.classes, module.preprocessing, recipe, facts)
    step = 0 if state is None else int(state["global_step"])
    history: History = NoHistory()
    if processes.is_main_process():
        history = History(
            folder.metrics_csv,
            module.metric_columns,
            up_to_step=None if state is None else step,
            rescale=lambda update: rescaled_update(update, before, now),
        )
    display = Display(
        module.epochs,
        module.batches_per_epoch,
        module.metric_columns,
        done=step * recipe.accumulate,
        iterations=module.iterations,
        ema=module.ema is not None,
        planned_end=None if planned is None else started + planned,
        console=console,
    )
    profile = StepProfile(display.print_line)
    checkpoint = StateCheckpoint(
        folder.state,
        recipe.checkpoint_minutes,
        before_save=history.sync,
        print_line=display.print_line,
        saving=profile.saving,
    )
    callbacks: list[Callback] = [Recorder(history, display, files), checkpoint]
    if recipe.profile:
        callbacks = [OptimiserMark(profile), *callbacks, profile]
    trainer = build_trainer(
        recipe,
        epochs=module.epochs,
        batches_per_epoch=module.batches_per_epoch,
        callbacks=callbacks,
        folder=folder.path,
        checkpoint_io=AtomicCheckpointIO(lambda read: rescale_state(read, before, now) if accept_changes else read),
    )

    module.print_line = display.print_line
    log("\n".join(_introduction(module, folder)))
    if recipe.show_batch and processes.is_main_process():
        draw_batch(module, step * recipe.accumulate, folder.train_batch)
        log(f"first training images, augmented: {folder.train_batch}")
    try:
        with _lock(folder), checkpoint.handle_signals():
            _train(trainer, module, None if state is None else folder.state)
        module.gather_full_networks()
    except Interrupted as stop:
        raise TrainingStopped(_resume_hint(folder, stop, trainer.global_step), stop.signal_number) from None
    finally:
        display.stop()
        module.close_loaders()  # first: workers that are left would keep the process from ending
        history.close()
    return module, FinishedRun(folder, history, files, machine.torch_device, recipe.precision, console)


def _train(trainer: Trainer, module: TrainingModule[Any, Any], state: Path | None) -> None:
    """Runs the Trainer, from a checkpoint if there is one. Raises RMTError for one that does not fit the run."""
    try:
        trainer.fit(module, ckpt_path=None if state is None else str(state), weights_only=True)
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        if state is None or module.started:
            raise
        raise RMTError(f"{state} does not fit the run: {' '.join(str(error).split())[:200]}") from error


def _finish(module: TrainingModule[Any, Any], run: FinishedRun, task: Task[Any, Any, Any]) -> TrainResult:
    """Evaluates and reports, in the main process alone, so that every image is counted once."""
    metrics = task.finish(module, run)
    log_to(run.console, "\n".join(task.summary(metrics, run.folder)))
    return TrainResult(run.folder.path, metrics)


@contextlib.contextmanager
def _lock(folder: RunFolder) -> Iterator[None]:
    """Keeps other runs out of the folder; see `RunFolder.lock`. The main process holds the lock for all."""
    with folder.lock() if processes.is_main_process() else contextlib.nullcontext():
        yield


def _console() -> Console:
    allow_any_encoding()
    return Console(highlight=False, soft_wrap=True, quiet=not processes.is_main_process())


def _introduction(module: TrainingModule[Any, Any], folder: RunFolder) -> list[str]:
    """Returns a line with network, image size, device and folder, and the task's own lines."""
    recipe, (short, long) = module.recipe, module.preprocessing["size"]
    parameters = sum(p.numel() for p in module.model.parameters()) / 1e6
    size = f"{short}²" if short == long else f"a short side of {short} px, a long side of at most {long}"
    return [
        f"{recipe.model} ({parameters:.2f} M parameters) at {size} on {recipe.device} {recipe.precision}, "
        f"into {folder.path}",
        *module.introduction(),
    ]


def _resume_hint(folder: RunFolder, stop: Interrupted, step: int) -> str:
    if stop.saved:
        return f"stopped after update {step}, checkpoint saved; resume with: rmt train --resume {folder.path}"
    if folder.state.exists():
        return f"stopped immediately; resume from the last checkpoint with: rmt train --resume {folder.path}"
    return f"stopped before the first checkpoint was saved; start again with: rmt train --resume {folder.path}"
