"""Which metrics of an evaluation are reported, and which one chooses `best`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricColumns:
    """The reported metrics of a task.

    Attributes:
        columns: the scores that get a column in `metrics.csv`, as `val_NAME` and `ema_val_NAME`.
        best: the one that `best.safetensors` is chosen by, in percent; more is better.
        label: its name in tables.
    """

    columns: tuple[str, ...]
    best: str
    label: str

    def of(self, scores: dict[str, float]) -> float:
        """The score that `best` is chosen by."""
        return scores[self.best]

    def row(self, prefix: str, scores: dict[str, float]) -> dict[str, float | None]:
        """The scores under their columns' names; None where there are none."""
        return {f"{prefix}_{name}": scores.get(name) for name in self.columns}
