"""What a person sees while a run goes: a bar for the steps, one table line per epoch.

The bar shows loss, learning rate, images per second and the time left; it is drawn on a terminal only. The table and
all notes are plain lines, so that a log file holds them too.
"""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from rmt.training.measure import Measure

_WIDTHS = (9, 10, 9, 9, 9, 9, 9, 8)


class Display:
    """Draws bar and table of `epochs` with `steps` batches each; a resumed run has `done` batches behind it.

    A run by iterations passes their number: it is counted in them instead of epochs.
    """

    def __init__(
        self,
        epochs: int,
        steps: int,
        measure: Measure,
        *,
        done: int = 0,
        iterations: int = 0,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.epochs, self.steps, self.done, self.iterations = epochs, steps, done, iterations
        self.measure = measure
        self._widths = (max(_WIDTHS[0], 2 * len(f"{iterations:,}") + 1), *_WIDTHS[1:])
        self._began = time.monotonic()
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
        label = self.measure.label
        unit = "iteration" if self.iterations else "epoch"
        self._row(unit, "train loss", "val loss", f"val {label}", f"EMA {label}", "LR", "images/s", "time")
        self._began = time.monotonic()
        self._bar.start()

    def stop(self) -> None:
        """Removes the bar; may be called twice."""
        self._bar.stop()

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        self.console.print(line, markup=False)

    def step(self, epoch: int, batch: int, loss: float, lr: float, images_per_s: float) -> None:
        """One batch more. `epoch` and `batch` count from 0."""
        self.done += 1
        part = "part" if self.iterations else "epoch"
        facts = f"loss {loss:.3f}  LR {lr:.2e}  {images_per_s:,.0f} images/s  {duration(self.time_left())} left"
        self._bar.update(self._task, description=f"{part} {epoch + 1}/{self.epochs}", completed=batch + 1, facts=facts)

    def judging(self) -> None:
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
            f"{raw['loss']:.4f}" if "loss" in raw else "–",
            f"{self.measure.of(raw):.2f} %",
            "–" if ema is None else f"{self.measure.of(ema):.2f} %",
            f"{lr:.2e}",
            f"{images_per_s:,.0f}",
            duration(seconds),
            *(["*"] if best else []),
        )

    def _row(self, *cells: str) -> None:
        self.say("  ".join(cell.rjust(width) for cell, width in zip(cells, (*self._widths, 1), strict=False)))

    def time_left(self) -> float:
        """Seconds until the last step, at the pace since the start, evaluations included."""
        advanced = self.done - self._behind
        if not advanced:
            return 0.0
        return (time.monotonic() - self._began) / advanced * (self.epochs * self.steps - self.done)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if text.startswith("0:") else text
