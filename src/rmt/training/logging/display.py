"""The terminal output of a run: a progress bar for the steps, and a table with one line per epoch.

The bar shows loss, learning rate, images per second and the time left, on a terminal only. Elsewhere a line says the
same when nothing else has been printed for a while. The table and all messages are plain lines, for log files too.
"""

import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rmt.terminal import log_to
from rmt.training.evaluator import MetricColumns

_WIDTHS = (9, 10, 9, 9, 9, 9, 9, 8)
_EMA = 4  # the column of the EMA weights
SILENCE = 30.0  # seconds without a line after which a log file gets one
FIRST_SILENCE = 5.0  # the same before the first line of progress of a planned run
DELAY = 1.25  # how many times longer than planned the rest of a run must take to be mentioned
SHORT = 60.0  # remaining seconds below which no estimate is printed


class Display:
    """Shows bar and table of `epochs` with `steps` batches each; a resumed run has done `done` batches already.

    With `iterations` the run is counted in them instead of epochs. Without `ema` the table has no
    column for EMA weights. `planned_end` is the value of `clock()` by which a planned run should end.
    """

    epochs: int
    steps: int
    done: int
    iterations: int
    metric_columns: MetricColumns
    ema: bool

    def __init__(
        self,
        epochs: int,
        steps: int,
        metric_columns: MetricColumns,
        *,
        done: int = 0,
        iterations: int = 0,
        ema: bool = True,
        planned_end: float | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.console: Console = console or Console(highlight=False, soft_wrap=True)
        self.epochs, self.steps, self.done, self.iterations = epochs, steps, done, iterations
        self.metric_columns, self.ema = metric_columns, ema
        self._clock = clock
        self._planned_end = planned_end
        self._said = clock()  # when the last line was printed
        self._silence = SILENCE if planned_end is None else FIRST_SILENCE
        self._estimated = False
        self._headings = (
            "iteration" if iterations else "epoch",
            "train loss",
            f"val {metric_columns.second_label}",
            f"val {metric_columns.label}",
            f"EMA {metric_columns.label}",
            "LR",
            "images/s",
            "time",
        )
        widths = [max(width, len(heading)) for width, heading in zip(_WIDTHS, self._headings, strict=True)]
        self._widths = (max(widths[0], 2 * len(f"{iterations:,}") + 1), *widths[1:])
        self._began = clock()
        self._behind = done
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=steps, completed=done % steps if steps else 0, facts="")

    def start(self) -> None:
        self._row(*self._headings)
        self._began = self._clock()
        self._bar.start()

    def stop(self) -> None:
        """Removes the bar; may be called twice."""
        self._bar.stop()

    def print_line(self, line: str) -> None:
        """Prints a line above the bar."""
        log_to(self.console, line)
        self._said = self._clock()

    def step(self, epoch: int, batch: int, loss: float, lr: float, images_per_s: float) -> None:
        """One batch more. `epoch` and `batch` count from 0."""
        self.done += 1
        part = "part" if self.iterations else "epoch"
        facts = f"loss {loss:.3f}  LR {lr:.2e}  {images_per_s:,.0f} images/s  {duration(self.time_left())} left"
        at = f"{part} {epoch + 1}/{self.epochs}"
        self._bar.update(self._task, description=at, completed=batch + 1, facts=facts)
        if not self.console.is_terminal and self._clock() - self._said >= self._silence:
            self._silence = SILENCE
            self.print_line(f"{at}, step {batch + 1:,}/{self.steps:,}  {facts}")

    def evaluating(self) -> None:
        """The evaluation at the end of an epoch has begun."""
        self._bar.update(self._task, facts="evaluating …")

    def epoch(
        self,
        epoch: int,
        train_loss: float,
        scores: dict[str, dict[str, float]],
        lr: float,
        images_per_s: float,
        seconds: float,
        best: bool,
    ) -> None:
        """The table's line for an epoch, counted from 1; a star marks the best so far."""
        raw, ema = scores["raw"], scores.get("ema")
        at = f"{epoch}/{self.epochs}"
        if self.iterations:
            at = f"{epoch * self.iterations // self.epochs:,}/{self.iterations:,}"
        self._row(
            at,
            f"{train_loss:.4f}",
            self._second(raw),
            f"{self.metric_columns.of(raw):.2f} %",
            "–" if ema is None else f"{self.metric_columns.of(ema):.2f} %",
            f"{lr:.2e}",
            f"{images_per_s:,.0f}",
            duration(seconds),
            *(["*"] if best else []),
        )
        if self._planned_end is not None:
            self._warn_of_delay()
            return
        if not self._estimated and (left := self.time_left()) >= SHORT:
            shorter = "--iterations" if self.iterations else "--epochs"
            self.print_line(f"about {duration(left)} left; shorten it with fewer {shorter} or --early-stopping N")
        self._estimated = True  # once: afterwards the bar and the log lines show it

    def _second(self, scores: dict[str, float]) -> str:
        value = scores.get(self.metric_columns.second)
        if value is None:
            return "–"
        return f"{value:.4f}" if self.metric_columns.second == "loss" else f"{value:.2f} %"

    def _warn_of_delay(self) -> None:
        """Says once when a planned run will take much longer than planned."""
        assert self._planned_end is not None
        planned, left = max(self._planned_end - self._clock(), 0.0), self.time_left()
        if not self._estimated and left >= SHORT and left > DELAY * planned:
            self.print_line(
                f"slower than planned: about {duration(left)} left instead of {duration(planned)}, by the same "
                "schedule; to end sooner: Ctrl-C, then rmt train --resume RUN --minutes N"
            )
            self._estimated = True

    def _row(self, *cells: str) -> None:
        """A line of the table: cells for each of `_WIDTHS`, and a mark behind them."""
        columns = list(zip(cells, (*self._widths, 1), strict=False))
        if not self.ema:
            del columns[_EMA]
        self.print_line("  ".join(cell.rjust(width) for cell, width in columns))

    def time_left(self) -> float:
        """Seconds until the last step, at the speed since the start, evaluations included."""
        advanced = self.done - self._behind
        if not advanced:
            return 0.0
        return (self._clock() - self._began) / advanced * (self.epochs * self.steps - self.done)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if text.startswith("0:") else text
