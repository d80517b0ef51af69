"""What a person sees while a run goes: a bar for the steps, one table line per epoch.

The bar shows loss, learning rate, images per second and the time left; it is drawn on a terminal only. The table and
all notes are plain lines, so that a log file holds them too.
"""

import time
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

_HEADER = ("epoch", "train loss", "val loss", "val top-1", "EMA top-1", "LR", "images/s", "time")
_WIDTHS = (9, 10, 9, 9, 9, 9, 9, 8)


class Display:
    """Draws bar and table of `epochs` with `steps` batches each; a resumed run has `done` batches behind it."""

    def __init__(self, epochs: int, steps: int, done: int = 0, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.epochs, self.steps, self.done = epochs, steps, done
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
        self.say("  ".join(name.rjust(width) for name, width in zip(_HEADER, _WIDTHS, strict=True)))
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
        facts = f"loss {loss:.3f}  LR {lr:.2e}  {images_per_s:,.0f} images/s  {duration(self.time_left())} left"
        self._bar.update(self._task, description=f"epoch {epoch + 1}/{self.epochs}", completed=batch + 1, facts=facts)

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
        cells = (
            f"{epoch}/{self.epochs}",
            f"{train_loss:.4f}",
            f"{raw['loss']:.4f}",
            f"{raw['top1']:.2f} %",
            "–" if ema is None else f"{ema['top1']:.2f} %",
            f"{lr:.2e}",
            f"{images_per_s:,.0f}",
            duration(seconds),
        )
        self.say("  ".join(c.rjust(w) for c, w in zip(cells, _WIDTHS, strict=True)) + ("  *" if best else ""))

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
