import io

import pytest
from rich.console import Console

from rmt.training.evaluator import MetricColumns
from rmt.training.logging.display import Display, duration

MEASURE = MetricColumns(columns=("loss", "top1"), best="top1", label="top-1")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.6, "1:00"), (61, "1:01"), (754, "12:34"), (3723, "1:02:03"), (36000, "10:00:00")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def show(terminal):
    stream = io.StringIO()
    display = Display(
        epochs=2, steps=4, metric_columns=MEASURE, console=Console(file=stream, force_terminal=terminal, width=150)
    )
    display.start()
    for batch in range(4):
        display.step(0, batch, loss=1.2345, lr=1e-3, images_per_s=1234.0)
    display._bar.refresh()
    score = {"loss": 0.5, "top1": 81.25, "top5": 99.0}
    display.epoch(1, 1.2, {"raw": score, "ema": score}, 1e-3, 1234.0, 65, best=True)
    display.stop()
    return stream.getvalue()


def test_the_bar_shows_loss_rate_pace_and_time_left():
    text = show(terminal=True)
    for part in ("epoch 1/2", "loss 1.234", "LR 1.00e-03", "1,234 images/s", "left"):
        assert part in text


def test_a_log_file_gets_the_table_and_no_bar():
    text = show(terminal=False)
    header, line = text.splitlines()
    assert "EMA top-1" in header
    assert line.split() == ["1/2", "1.2000", "0.5000", "81.25", "%", "81.25", "%", "1.00e-03", "1,234", "1:05", "*"]
    assert "\x1b" not in text


def watched(seconds_per_step, *, terminal=False, epochs=2, steps=6, ema=True, iterations=0, planned_end=None):
    """What a run prints whose steps take that long, and then an epoch's line."""
    stream, now = io.StringIO(), [0.0]
    console = Console(file=stream, force_terminal=terminal, width=150)
    shape = dict(
        epochs=epochs, steps=steps, metric_columns=MEASURE, iterations=iterations, ema=ema, planned_end=planned_end
    )
    display = Display(**shape, console=console, clock=lambda: now[0])
    display.start()
    for batch in range(steps):
        now[0] += seconds_per_step
        display.step(0, batch, loss=1.2345, lr=1e-3, images_per_s=12.0)
    score = {"loss": 0.5, "top1": 81.25}
    display.epoch(1, 1.2, {"raw": score} | ({"ema": score} if ema else {}), 1e-3, 12.0, 65, best=False)
    display.stop()
    return stream.getvalue().splitlines()


def test_a_log_file_hears_of_a_long_epoch_every_half_minute():
    _, *lines, _, _ = watched(16)
    assert [line.split("  ")[0] for line in lines] == [
        "epoch 1/2, step 2/6",
        "epoch 1/2, step 4/6",
        "epoch 1/2, step 6/6",
    ]
    assert lines[0] == "epoch 1/2, step 2/6  loss 1.234  LR 1.00e-03  12 images/s  2:40 left"
    assert len(watched(4)) == 2  # 24 s: the table alone
    assert not any(line.startswith("epoch 1/2, step") for line in watched(16, terminal=True))


def test_the_first_epoch_tells_how_long_the_run_will_take():
    assert watched(16)[-1] == "about 1:36 left; shorten it with fewer --epochs or --early-stopping N"
    assert "fewer --iterations" in watched(16, iterations=12)[-1]
    assert "left" not in watched(4)[-1]  # 24 s need no warning


def test_a_planned_run_tells_early_how_fast_it_is_and_whether_it_is_late():
    _, first, *_, row, late = watched(16, planned_end=120.0)
    assert first.startswith("epoch 1/2, step 1/6  loss 1.234")
    assert row.split()[0] == "1/2"
    assert late.startswith("slower than planned: about 1:36 left instead of 0:24, by the same schedule; to end sooner")
    assert watched(16, planned_end=190.0)[-1].split()[0] == "1/2"  # in time
    assert len(watched(4, planned_end=48.0)) == 3


def test_without_averaged_weights_there_is_no_column_for_them():
    header, line = watched(1, ema=False)
    assert "EMA" not in header and "–" not in line
    assert len(header) == len(line)


def test_time_left_counts_from_where_a_resumed_run_began():
    display = Display(epochs=2, steps=4, metric_columns=MEASURE, done=6, console=Console(file=io.StringIO()))
    assert display.time_left() == 0
    display.step(1, 2, 1.0, 1e-3, 1.0)
    assert 0 <= display.time_left() < 1


def test_a_run_by_iterations_is_counted_in_them():
    stream = io.StringIO()
    display = Display(4, 500, MEASURE, iterations=2000, console=Console(file=stream, width=150))
    display.start()
    display.epoch(3, 1.2, {"raw": {"top1": 50.0}}, 1e-3, 10.0, 65, best=False)
    header, line = stream.getvalue().splitlines()
    assert header.split()[0] == "iteration"
    assert line.split()[:3] == ["1,500/2,000", "1.2000", "–"]
    assert len(header) == len(line)
