import csv

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rmt.training.evaluator import MetricColumns
from rmt.training.logging.history import History, columns


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


MEASURE = MetricColumns(columns=("loss", "top1"), best="top1", label="top-1")


def test_rows_are_on_the_disk_at_once_and_events_beside_them(tmp_path):
    history = History(tmp_path / "metrics.csv", MEASURE)
    history.add("step", 2, epoch=1, train_loss=0.1 + 0.2)
    (row,) = read(history.path)
    assert list(row) == list(columns(MEASURE))
    assert float(row["train_loss"]) == 0.1 + 0.2
    assert row["val_top1"] == ""
    history.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("step/train_loss")] == [(2, 0.3)]


def test_a_resumed_run_cuts_the_rows_after_its_state(tmp_path):
    history = History(tmp_path / "metrics.csv", MEASURE)
    for step in (1, 2, 3):
        history.add("step", step, train_loss=float(step))
    history.close()
    with open(history.path, "a") as file:
        file.write("step,4,1,0.")  # killed while writing
    again = History(history.path, MEASURE, up_to_step=2)
    again.add("step", 3, train_loss=30.0)
    again.close()
    assert [(row["step"], row["train_loss"]) for row in read(history.path)] == [
        ("1", "1.0"),
        ("2", "2.0"),
        ("3", "30.0"),
    ]
    events = EventAccumulator(str(tmp_path), purge_orphaned_data=True).Reload()
    assert [(e.step, e.value) for e in events.Scalars("step/train_loss")] == [(1, 1.0), (2, 2.0), (3, 30.0)]


def test_columns_leave_blanks_out(tmp_path):
    history = History(tmp_path / "metrics.csv", MEASURE)
    history.add("step", 1, train_loss=1.0)
    history.add("epoch", 1, val_top1=50.0)
    history.add("epoch", 2, val_top1=60.0, ema_val_top1=None)
    assert history.column("val_top1", "epoch") == ([1, 2], [50.0, 60.0])
    assert history.column("ema_val_top1", "epoch") == ([], [])
    history.close()


def test_an_unknown_column_is_a_mistake(tmp_path):
    history = History(tmp_path / "metrics.csv", MEASURE)
    with pytest.raises(ValueError, match="val_top7"):
        history.add("epoch", 1, val_top7=1.0)
    history.close()
