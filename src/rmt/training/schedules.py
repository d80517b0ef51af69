"""Learning rates as functions of the update's number alone, so that a resumed run needs no schedule's state.

The pieces of METHOD 6 and 7 are factors of the peak rate, multiplied with each other: `poly(…) * warm_up(…)`.
"""

from collections.abc import Callable, Sequence

from torch.optim import Optimizer


def warm_up(update: int, length: int, start: float) -> float:
    """Linear from `start` at update 0 to 1 at update `length`."""
    return 1.0 if update >= length else 1 - (1 - update / length) * (1 - start)


def poly(update: int, total: int, power: float, end: float = 0.0) -> float:
    """(1 − update / total)^power, from 1 down to `end`."""
    return end + (1 - end) * (1 - min(update, total) / total) ** power


def step(update: int, milestones: Sequence[int], gamma: float = 0.1) -> float:
    """`gamma` to the power of the milestones passed."""
    return gamma ** sum(update >= milestone for milestone in milestones)


class UpdateSchedule:
    """Sets each parameter group's rate to its peak times `factor(update)`."""

    def __init__(self, optimizer: Optimizer, factor: Callable[[int], float]) -> None:
        self.optimizer = optimizer
        self.factor = factor
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.step_update(0)

    def step_update(self, update: int) -> None:
        """Sets the rates of the next update, updates 0…update−1 being done."""
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * self.factor(update)

    def state_dict(self) -> dict:
        """Nothing: the recipe and the update's number say it all."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Nothing to load; the next update sets the rate."""
