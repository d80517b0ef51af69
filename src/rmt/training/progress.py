"""Where a run stands: everything besides weights and optimiser that a resumed run has to know."""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Best:
    """The best score so far of one set of weights (`Measure.best`), and when it was."""

    score: float = -1.0  # percent; -1 before the first evaluation
    epoch: int = 0  # counted from 1; 0 before the first evaluation

    def offer(self, score: float, epoch: int) -> bool:
        """Takes a better score over and says whether it was one; of equals the first stays."""
        if score <= self.score:
            return False
        self.score, self.epoch = score, epoch
        return True


@dataclass
class Progress:
    """Counters and records of one run, of primitives only, so that they travel in a checkpoint."""

    loss_sum: float = 0.0  # over this epoch's batches so far
    batches: int = 0  # this epoch's batches so far
    row_loss_sum: float = 0.0  # since the last row of metrics.csv
    row_batches: int = 0
    seconds: float = 0.0  # inside training steps and their data, validation not counted
    epoch_seconds: float = 0.0
    epoch_images: int = 0
    judged: int = 0  # evaluations so far; of those of a resumed run Lightning's own count lacks the last
    best: dict[str, Best] = field(default_factory=lambda: {"raw": Best(), "ema": Best()})
    val: dict[str, dict[str, float]] = field(default_factory=dict)  # the last epoch's scores, raw and ema
    bad_images: dict[str, str] = field(default_factory=dict)  # name -> reason
    skipped_batches: int = 0  # whose loss was not finite
    skipped_in_a_row: int = 0
    warned_of_chance: bool = False

    def add_loss(self, loss: float) -> None:
        self.loss_sum += loss
        self.batches += 1
        self.row_loss_sum += loss
        self.row_batches += 1

    def take_row_loss(self) -> float:
        """The mean loss since the last row; starts the next row."""
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
    def pace(self) -> float:
        """Images per second in the epoch so far."""
        return self.epoch_images / max(self.epoch_seconds, 1e-9)

    def start_epoch(self) -> None:
        self.loss_sum, self.batches = 0.0, 0
        self.row_loss_sum, self.row_batches = 0.0, 0
        self.epoch_seconds, self.epoch_images = 0.0, 0

    def best_of_all(self) -> tuple[str, Best]:
        """Which weights are the best so far, "raw" or "ema", and their record."""
        kind = max(self.best, key=lambda name: self.best[name].score)
        return kind, self.best[kind]

    def lost_patience(self, patience: int) -> bool:
        """Whether the last `patience` evaluations were no better than one before them; never with a patience of 0."""
        return 0 < patience <= self.judged - self.best_of_all()[1].epoch

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Progress":
        values = dict(state)
        values["best"] = {name: Best(**record) for name, record in values["best"].items()}
        return cls(**values)
