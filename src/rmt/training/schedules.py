"""Learning rate schedules: functions of the number of updates alone, so that a resumed run needs no state of theirs.

Detection and segmentation multiply factors of the peak rate: `poly(…) * warm_up(…)`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.scheduler import CosineLRScheduler
from torch.optim import Optimizer

from rmt.recipes import ClassifyRecipe


def warm_up(update: int, length: int, start: float) -> float:
    """Linear from `start` at update 0 to 1 at update `length`."""
    return 1.0 if update >= length else 1 - (1 - update / length) * (1 - start)


def poly(update: int, total: int, power: float, end: float = 0.0) -> float:
    """(1 − update / total)^power, from 1 down to `end`."""
    return end + (1 - end) * (1 - min(update, total) / total) ** power


def step(update: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """`gamma` to the power of the milestones passed."""
    return gamma ** sum(update >= milestone for milestone in milestones)


def restarted(update: int, start: int, total: int, lr: float, end: float) -> float:
    """A cosine from `lr` at update `start` to `end` at update `total`; `lr` before."""
    done = min(max(update - start, 0) / max(total - start, 1), 1)
    return end + (lr - end) * (1 + math.cos(math.pi * done)) / 2


class StatelessSchedule:
    """A schedule without state: the recipe and the number of updates determine the learning rate."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class UpdateSchedule(StatelessSchedule):
    """Sets each parameter group's rate to its peak times `factor(update)`."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.peaks: list[float] = [group["lr"] for group in optimizer.param_groups]
        self.step_update(0)

    def step_update(self, update: int) -> None:
        """Sets the rates of the next update, updates 0…update−1 being done."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.factor(update) * group.get("lr_scale", 1.0)  # timm's layer decay


class CosineSchedule(StatelessSchedule, CosineLRScheduler):
    """timm's cosine with linear warm-up, by weight update: the rate is a function of the update's number alone.

    With `cooldown_epochs` the cosine ends so much earlier, and the rate stays at its minimum.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: ClassifyRecipe, steps_per_epoch: int) -> None:
        total = (recipe.epochs - recipe.cooldown_epochs) * steps_per_epoch
        warmup = min(math.ceil(recipe.warmup_epochs * steps_per_epoch), total - 1)
        super().__init__(
            optimizer,
            t_initial=total,
            lr_min=recipe.min_lr,
            warmup_t=warmup,
            warmup_lr_init=recipe.warmup_lr,
            t_in_epochs=False,
        )
        self.step_update(0)
