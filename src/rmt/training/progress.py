"""The counters and records of a run that a checkpoint holds besides weights and optimiser."""

from dataclasses import asdict, dataclass, field
from typing import Any

#: Fields of the states of earlier versions.
_RENAMED = {"judged": "evaluations", "warned_of_chance": "warned"}


@dataclass
class Best:
    """The scores so far of one set of weights (`MetricColumns.best`): the one that is best, and the highest.

    They differ where a later score within a margin of the highest one is preferred: of scores that differ by chance
    alone the highest is the luckiest.
    """

    score: float = -1.0  # percent; -1 before the first evaluation
    epoch: int = 0  # counted from 1; 0 before the first evaluation
    highest: float = -1.0
    highest_epoch: int = 0

    def offer(self, score: float, epoch: int, margin: float = 0.0) -> None:
        """Counts the score of an epoch: it becomes `score` if it is the highest, or less than `margin` below it."""
        if score > self.highest:
            self.highest, self.highest_epoch = score, epoch
        elif self.highest - score >= margin:
            return
        self.score, self.epoch = score, epoch


@dataclass
class Progress:
    """Counters and records of one run. Holds only Python's basic types, for the checkpoint."""

    loss_sum: float = 0.0  # over this epoch's batches so far
    batches: int = 0  # this epoch's batches so far
    row_loss_sum: float = 0.0  # since the last row of metrics.csv
    row_batches: int = 0
    seconds: float = 0.0  # inside training steps and their data, validation not counted
    epoch_seconds: float = 0.0
    epoch_images: int = 0
    evaluations: int = 0  # so far; Lightning's own count lacks the last one after a resume
    best: dict[str, Best] = field(default_factory=lambda: {"raw": Best(), "ema": Best()})
    val: dict[str, dict[str, float]] = field(default_factory=dict)  # the last epoch's scores, raw and ema
    bad_images: dict[str, str] = field(default_factory=dict)  # name -> reason
    skipped_batches: int = 0  # whose loss was not finite
    skipped_in_a_row: int = 0
    warned: bool = False

    def add_loss(self, loss: float) -> None:
        self.loss_sum += loss
        self.batches += 1
        self.row_loss_sum += loss
        self.row_batches += 1

    def pop_row_loss(self) -> float:
        """Returns the mean loss since the last row of `metrics.csv`, and starts the next row."""
        mean = self.row_loss_sum / max(self.row_batches, 1)
        self.row_loss_sum, self.row_batches = 0.0, 0
        return mean

    def add_time(self, seconds: float, images: int) -> None:
        self.seconds += seconds
        self.epoch_seconds += seconds
        self.epoch_images += images

    @property
    def loss(self) -> float:
        """The mean loss of the epoch so far."""
        return self.loss_sum / max(self.batches, 1)

    @property
    def images_per_s(self) -> float:
        """Images per second in the epoch so far."""
        return self.epoch_images / max(self.epoch_seconds, 1e-9)

    def start_epoch(self) -> None:
        self.loss_sum, self.batches = 0.0, 0
        self.row_loss_sum, self.row_batches = 0.0, 0
        self.epoch_seconds, self.epoch_images = 0.0, 0

    def best_of_all(self) -> tuple[str, Best]:
        """Returns the set of weights, "raw" or "ema", with the highest score so far, and its record."""
        kind = max(self.best, key=lambda name: self.best[name].highest)
        return kind, self.best[kind]

    def patience_exhausted(self, patience: int) -> bool:
        """Returns whether the last `patience` evaluations were no better than an earlier one. False for 0."""
        return 0 < patience <= self.evaluations - self.best_of_all()[1].highest_epoch

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Progress":
        """From `state_dict`, also of earlier versions. Raises ValueError, TypeError or AttributeError for others."""
        values = {_RENAMED.get(key, key): value for key, value in state.items()}
        values["best"] = {str(name): _best(record) for name, record in values["best"].items()}
        progress, usual = cls(**values), cls()
        for record in (*progress.best.values(), progress):
            for name, value in vars(usual if record is progress else Best()).items():
                _check_kind(name, getattr(record, name), value)
        if progress.best.keys() != usual.best.keys():
            raise ValueError("the records of the best scores are not those of raw and ema weights")
        return progress


def _best(record: dict[str, Any]) -> Best:
    best = Best(**record)
    if "highest" not in record:  # earlier versions: the best is the highest
        best.highest, best.highest_epoch = best.score, best.epoch
    return best


def _check_kind(name: str, value: Any, usual: Any) -> None:
    """Raises TypeError unless the value is of the kind of the usual one; whole numbers are counts."""
    if isinstance(usual, int) and not isinstance(usual, bool):
        good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53
    elif isinstance(usual, float):
        good = isinstance(value, int | float) and not isinstance(value, bool)
    else:
        good = isinstance(value, type(usual))
    if not good:
        raise TypeError(f"its progress has {str(value)[:40]!r} for {name}")
