"""The progress bar of commands over many images: images done, images per second, time left."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def progress_bar(console: Console, total: int, *, hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """Context manager that yields the function to call with a number of images done. Shown on terminals only."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    started, done = time.monotonic(), 0
    with Progress(*columns, console=console, disable=hidden or not console.is_terminal) as bar:
        task = bar.add_task("", total=total, rate="")

        def advance(images: int) -> None:
            nonlocal done
            done += images
            rate = done / max(time.monotonic() - started, 1e-9)
            bar.update(task, advance=images, rate=f"{rate:,.{0 if rate >= 10 else 1}f} images/s")

        yield advance
