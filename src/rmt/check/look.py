"""Look at data: open, scan with a progress bar, report; and save the sheet of pictures."""

import io
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmt.atomic import write_bytes
from rmt.check.opened import OpenedData, TaskName, Where, open_data
from rmt.check.report import Report, build_report
from rmt.check.scan import chosen, scan
from rmt.check.sheet import draw_sheet


def check(where: Where, task: TaskName | None = None, max_images: int = 2000) -> tuple[Report, OpenedData]:
    """The report of some data, and the opened splits. Raises `RMTError` if there are no data.

    Args:
        where: what the user named.
        task: what the data are for; guessed if None.
        max_images: images of each split to decode; 0: all.
    """
    opened = open_data(where, task)
    total = sum(len(chosen(images, max_images)) for images in opened.splits.values())
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        progress = bar.add_task("images", total=total)
        scans = {split: scan(s, max_images, lambda: bar.advance(progress)) for split, s in opened.splits.items()}
    return build_report(where, opened, scans), opened


def save_sheet(opened: OpenedData, path: Path) -> bool:
    """Write the sheet of pictures; False if no picture can be shown."""
    page = draw_sheet(opened)
    if page is None:
        return False
    file = io.BytesIO()
    page.save(file, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    write_bytes(path, file.getvalue())
    return True
