"""The callback that saves the checkpoint, and ends a run on Ctrl-C or SIGTERM.

The checkpoint is saved at the end of every epoch, and within an epoch every `checkpoint_minutes`. A signal only sets a
flag: the current step is finished, the checkpoint saved, and the run ends. Checkpoints are saved between weight updates
only, because they do not hold accumulated gradients.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from rmt.training.distributed import processes

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(BaseException):
    """The run was stopped by a signal. `saved`: whether a checkpoint was saved at the last step."""

    def __init__(self, signal_number: int, saved: bool) -> None:
        super().__init__(signal_number, saved)
        self.signal_number = signal_number
        self.saved = saved


class StateCheckpoint(Checkpoint):
    """Saves the checkpoint by time, at epoch ends and on signals.

    Args:
        path: the file to save to.
        minutes: time between checkpoints inside an epoch; 0 saves at epoch ends only.
        before_save: called first, e.g. to bring `metrics.csv` to the disk.
        print_line: prints one line.
        saving: context manager around each save inside an epoch, e.g. to measure its duration.
    """

    signal_number: int

    def __init__(
        self,
        path: Path,
        minutes: float,
        before_save: Callable[[], None],
        print_line: Callable[[str], None] = print,
        saving: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext,
    ) -> None:
        self.path = path
        self.seconds: float = minutes * 60 or float("inf")
        self.before_save = before_save
        self.print_line = print_line
        self.saving = saving
        self.signal_number = 0
        self._saved_at = time.monotonic()
        self._step_before = 0

    @contextlib.contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handles Ctrl-C and SIGTERM inside; restores the previous handlers at the end."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            self._listen()
            yield
        finally:
            for number, handler in before.items():
                with contextlib.suppress(ValueError):
                    signal.signal(number, handler)

    def _listen(self) -> None:
        for number in _SIGNALS:
            with contextlib.suppress(ValueError):  # not in the main thread, which alone may set handlers
                signal.signal(number, self._on_signal)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved_at = time.monotonic()
        # Again, since `fit` sets a handler for SIGTERM that would end the run inside an accumulation.
        self._listen()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._step_before = trainer.global_step

    def _on_signal(self, number: int, frame: Any) -> None:
        if self.signal_number:  # the second one: at once
            raise Interrupted(number, saved=False)
        self.signal_number = number
        self.print_line("stopping after the next update or evaluation … (Ctrl-C again: stop at once, without saving)")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        updated = trainer.global_step > self._step_before
        # After the last batch of an epoch the evaluation follows, and the checkpoint is saved after it.
        if not updated or trainer.is_last_batch:
            return
        due = processes.is_main_process() and time.monotonic() - self._saved_at >= self.seconds
        if any(processes.all_reduce_max(self.signal_number, int(due))):  # all processes save, or none
            with self.saving():
                self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        self.before_save()
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saved_at = time.monotonic()
        (signal_number,) = processes.all_reduce_max(self.signal_number)
        if signal_number:
            raise Interrupted(signal_number, saved=True)
