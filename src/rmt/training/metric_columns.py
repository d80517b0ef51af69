"""What an evaluation reports, in terms that tables, files and the choice of `best` need."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measure:
    """A task's scores.

    Attributes:
        columns: the scores that get a column in `metrics.csv`, as `val_NAME` and `ema_val_NAME`.
        best: the one that `best.safetensors` is chosen by, in percent; more is better.
        label: what people call that one.
    """

    columns: tuple[str, ...]
    best: str
    label: str

    def of(self, scores: dict[str, float]) -> float:
        """The score that decides."""
        return scores[self.best]

    def row(self, prefix: str, scores: dict[str, float]) -> dict[str, float | None]:
        """The scores under their columns' names; None where there are none."""
        return {f"{prefix}_{name}": scores.get(name) for name in self.columns}
