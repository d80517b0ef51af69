"""The metrics of a run over time: `metrics.csv`, and the same numbers as TensorBoard events.

A row belongs to a weight update (`step`): one with the loss every few steps, and one with the evaluation's metrics at
the end of each epoch. A resumed run deletes the rows after its state, so that no step appears twice.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rmt.atomic import disk_errors_as_rmt_error, write_text
from rmt.data.files import MAX_TABLE, require_regular
from rmt.errors import RMTError
from rmt.training.evaluator import MetricColumns


def columns(metric_columns: MetricColumns) -> tuple[str, ...]:
    """The columns of a task's `metrics.csv`; the kind of a row is "step" or "epoch"."""
    scores = [f"{prefix}_{name}" for prefix in ("val", "ema_val") for name in metric_columns.columns]
    return ("kind", "step", "epoch", "lr", "train_loss", *scores, "images_per_s", "seconds")


class History:
    """Appends rows to `metrics.csv` and mirrors them into TensorBoard's events in the same folder."""

    path: Path
    columns: tuple[str, ...]

    def __init__(
        self,
        path: Path,
        metric_columns: MetricColumns,
        *,
        up_to_step: int | None = None,
        rescale: Callable[[int], int] = lambda step: step,
    ) -> None:
        """Starts a new file; with `up_to_step` keeps the rows of an earlier one up to that step.

        `rescale` gives the steps of the earlier rows in updates of the run as it goes on, see `rmt.training.rescale`.
        """
        from torch.utils.tensorboard import SummaryWriter

        self.path, self.columns = path, columns(metric_columns)
        rows = [] if up_to_step is None or not path.exists() else _read_whole_rows(path, self.columns)
        rows = [row | {"step": str(rescale(int(row["step"])))} for row in rows]
        self.rows: list[dict[str, str]] = [row for row in rows if int(row["step"]) <= (up_to_step or 0)]
        write_text(path, _as_csv(self.columns, self.rows, header=True))
        with disk_errors_as_rmt_error(path):
            self._file = open(path, "a", encoding="utf-8", newline="")  # noqa: SIM115 - open for the whole run
            purge = None if up_to_step is None else up_to_step + 1
            self._events = SummaryWriter(log_dir=str(path.parent), purge_step=purge)

    def add(self, kind: str, step: int, **values: Any) -> None:
        """Appends a row; `values` are named as the columns, others stay blank. Raises RMTError on a full disk."""
        row = {"kind": kind, "step": str(step)} | {key: _text(value) for key, value in values.items()}
        self.rows.append(row)
        with disk_errors_as_rmt_error(self.path):
            self._file.write(_as_csv(self.columns, [row]))
            self._file.flush()
            for key, value in values.items():
                if value is not None and key != "epoch":
                    self._events.add_scalar(f"{kind}/{key}", value, step)

    def sync(self) -> None:
        """Brings the rows to the disk; called before a state that counts on them is saved."""
        with disk_errors_as_rmt_error(self.path):
            os.fsync(self._file.fileno())
            self._events.flush()

    def column(self, name: str, kind: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one column, rows of one kind, without blanks."""
        rows = [row for row in self.rows if row["kind"] == kind and row.get(name)]
        return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]

    def close(self) -> None:
        with disk_errors_as_rmt_error(self.path):
            self._file.close()
            self._events.close()


class NoHistory(History):
    """Writes nothing, for all processes but the main one."""

    def __init__(self) -> None:
        self.rows: list[dict[str, str]] = []

    def add(self, kind: str, step: int, **values: Any) -> None:
        pass

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def _read_whole_rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The complete rows of the file; a truncated last line is skipped, and other columns are left out.

    Raises RMTError for a row that no run has written.
    """
    try:
        require_regular(path, MAX_TABLE)
        whole, end, _ = path.read_text(encoding="utf-8").rpartition("\n")
        found = list(csv.DictReader(io.StringIO(whole + end), restval=""))
    except (OSError, ValueError, csv.Error) as error:
        raise RMTError(f"{path}: cannot be read ({error}); remove it to go on without it") from None
    rows = [{name: row[name] for name in columns if name in row} for row in found]
    for number, row in enumerate(rows, 2):
        if not _is_row(row):
            raise RMTError(f"{path}: line {number} is not as a run writes it; remove the file to go on without it")
    return rows


def _is_row(row: dict[str, str]) -> bool:
    if row.get("kind") not in ("step", "epoch") or not re.fullmatch(r"[0-9]{1,15}", row.get("step", "")):
        return False
    try:
        for name, value in row.items():
            if value and name != "kind":
                float(value)
    except ValueError:
        return False
    return True


def _as_csv(columns: tuple[str, ...], rows: list[dict[str, str]], header: bool = False) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _text(value: Any) -> str:
    """Numbers with enough digits to read them back unchanged."""
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)
