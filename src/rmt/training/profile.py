"""`--profile`: where a step's time goes, as the training process sees it."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

PARTS = ("data wait", "forward", "backward", "optimiser", "rest", "saving")
WARM_UP = 5
"""First steps of a run that are left out: there the memory is taken and the kernels are chosen."""


class StepProfile(Callback):
    """Adds up, over all steps but the first few, the time of each of PARTS, and says it when the training ends.

    - data wait: from the end of one step to the next one's batch, its way to the device included;
    - forward: the task's loss, mixing and the network;
    - backward: with the exchange of gradients among devices, as far as it is not hidden;
    - optimiser: clipping, the update, the averaged weights; none in a step that only adds up gradients;
    - rest: metrics and display;
    - saving: states saved inside an epoch. Those at its end are no part of a step, as the evaluation is none.

    To be the last of the Trainer's callbacks, so that the work of the others counts as rest; what saves states does so
    inside `saving`, since Lightning puts such callbacks behind all others. On a GPU every boundary waits for the work
    given out so far, which costs the step a little of what it would otherwise do in advance.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.steps = 0
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._at = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._lap()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.steps += 1
        self._end_of("data wait")

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        self._end_of("forward")

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end_of("backward")

    def optimised(self) -> None:
        """To be called before the other callbacks of a step's end."""
        self._end_of("optimiser")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end_of("rest")

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """What is done inside, at the end of a step, counts as saving."""
        self._end_of("rest")
        try:
            yield
        finally:
            self._end_of("saving")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.say(self.summary())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.say(self.summary())

    def summary(self) -> str:
        """One line: the mean step and its parts, in milliseconds and percent."""
        counted = self.steps - WARM_UP
        if counted < 1:
            return f"profile: only {self.steps} steps, the first {WARM_UP} of which do not count"
        whole = sum(self.seconds.values())
        parts = [f"{part} {1e3 * s / counted:.1f} ms ({100 * s / whole:.1f} %)" for part, s in self.seconds.items()]
        return f"profile: a step took {1e3 * whole / counted:.1f} ms, mean of {counted:,}: {', '.join(parts)}"

    def _end_of(self, part: str) -> None:
        seconds = self._lap()
        if self.steps > WARM_UP:
            self.seconds[part] += seconds

    def _lap(self) -> float:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        before, self._at = self._at, time.perf_counter()
        return self._at - before


class OptimiserMark(Callback):
    """The first of the Trainer's callbacks: tells a StepProfile that the update is done and the rest begins."""

    def __init__(self, profile: StepProfile) -> None:
        self.profile = profile

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.profile.optimised()
