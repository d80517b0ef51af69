"""Write a folder of label maps file by file, so that an interrupted command continues."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from rmt.atomic import replace_file
from rmt.data.token_labels.label_maps import (
    INDEX,
    Arrays,
    LabelMapSpec,
    images_without_map,
    incomplete_files,
    write_map_file,
)
from rmt.errors import RMTError
from rmt.output_folder import create_or_reopen
from rmt.terminal import log_to

MakeFiles = Callable[[Sequence[int], Callable[[int], None]], Iterator[tuple[int, Arrays]]]
"""make(numbers, show_progress) yields number and arrays of each of these files when it is complete; it calls
`show_progress` with the number of images done."""


@dataclass
class TokenLabelReport:
    """What `make_token_labels` or `import_label_maps` did."""

    spec: LabelMapSpec
    bytes: int = 0  # on disk, of all files of maps
    maps: int = 0  # written in this call
    agree: int = 0  # of these, those whose top-1 class, pooled over the map, is the image's label
    unreadable: dict[str, str] = field(default_factory=dict)  # name -> reason
    without_map: int = 0  # images without a map in the files that exist


def write_label_maps(
    folder: Path, report: TokenLabelReport, make: MakeFiles, *, warnings: Sequence[str], console: Console
) -> None:
    """Write the files of `report.spec` that are missing or damaged.

    Args:
        folder: a new or empty folder, or one that has maps of the same description.
        report: its `bytes` and `without_map` are set.
        make: computes the maps.
        warnings: lines that are printed first.
        console: for warnings and progress.
    Raises:
        RMTError: the folder has other maps or other files, or the disk is full.
    """
    spec = report.spec
    if create_or_reopen(folder, INDEX, spec.as_json(), "label maps"):
        _require_equal(spec, LabelMapSpec.read(folder), folder)
    todo, complaints = incomplete_files(folder, spec, range(spec.files))
    for line in (*warnings, *(f"made again: {complaint}" for complaint in complaints)):
        log_to(console, line)
    columns = (TextColumn("label maps"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        progress = bar.add_task("", total=sum(len(spec.rows(number)) for number in todo))
        for number, arrays in make(todo, lambda count: bar.update(progress, completed=count)):
            with replace_file(folder / spec.file_name(number)) as draft:
                write_map_file(draft, arrays)
    paths = [folder / spec.file_name(number) for number in range(spec.files)]
    report.bytes = sum(path.stat().st_size for path in paths)
    report.without_map = sum(map(images_without_map, paths))


def pooled_top(scores: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """The class with the largest logit of each map, averaged over all locations: both (B, h, w, k) to int64 (B,)."""
    sums = torch.zeros(len(scores), num_classes).scatter_add_(1, classes.flatten(1), scores.flatten(1))
    return sums.argmax(1)


def _require_equal(spec: LabelMapSpec, before: LabelMapSpec, folder: Path) -> None:
    """Raises RMTError that names the differences when the folder's maps were made with other settings."""
    ours, theirs = vars(spec), vars(before)
    if changes := ", ".join(f"{key} {theirs[key]!r} -> {ours[key]!r}" for key in ours if ours[key] != theirs[key]):
        raise RMTError(f"{folder}: it holds maps made otherwise ({changes}); choose another folder or remove it")
