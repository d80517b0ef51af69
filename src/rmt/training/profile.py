"""`--profile`: how long the parts of a step take in the training process."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rmt.terminal import plural

PARTS = ("data wait", "forward", "backward", "optimiser", "rest", "saving")
WARM_UP = 5
"""First steps of a run, which are not counted: they allocate memory and choose kernels."""


class StepProfile(Callback):
    """Sums the time of each of PARTS over all steps but the first few, and prints it when training ends.

    - data wait: from the end of one step to the next one's batch on the device;
    - forward: mixing, the network and the loss;
    - backward: with the part of the gradient exchange that does not overlap;
    - optimiser: clipping, the update, the EMA weights; nothing in a step that only accumulates gradients;
    - rest: metrics and display;
    - saving: states saved inside an epoch. Saving and evaluating at its end are not counted.

    It must be the last of the Trainer's callbacks, so that the time of the others counts as rest. The checkpoint
    callback saves inside `saving`, since Lightning moves it behind all others. On a GPU each boundary synchronises,
    which makes a step a little slower.
    """

    steps: int

    def __init__(self, print_line: Callable[[str], None]) -> None:
        self.print_line = print_line
        self.steps = 0
        self.seconds: dict[str, float] = dict.fromkeys(PARTS, 0.0)
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
        """To be called before the other callbacks at the end of a step."""
        self._end_of("optimiser")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._end_of("rest")

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Counts the time inside, at the end of a step, as saving."""
        self._end_of("rest")
        try:
            yield
        finally:
            self._end_of("saving")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.print_line(self.summary())

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.print_line(self.summary())

    def summary(self) -> str:
        """One line: the mean step and its parts, in milliseconds and percent."""
        counted = self.steps - WARM_UP
        if counted < 1:
            return f"profile: only {plural(self.steps, 'step')}, the first {WARM_UP} of which do not count"
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
    """The first of the Trainer's callbacks: tells a StepProfile that the update is done."""

    def __init__(self, profile: StepProfile) -> None:
        self.profile = profile

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.profile.optimised()
