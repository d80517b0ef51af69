"""Images whose labels are in a CSV file, such as Kaggle's `train.csv` beside a folder of images."""

import csv
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from rmt.data.files import open_text
from rmt.data.images import EXTENSIONS
from rmt.data.sets import preview
from rmt.data.sources.folders import ImageFiles
from rmt.data.split_names import NAMES, Split, by_split, folder_names, split_of
from rmt.errors import RMTError

LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "target", "species", "breed", "diagnosis")
IMAGE_FOLDERS = ("", "images", "image", "img", "imgs")
"""Beside those that are named like a split."""
MAX_ROWS = 20_000_000
MAX_LINE = 2**22
MAX_CLASSES = 10_000
_WHOLE = ("data", "annotations", "labels")
"""Names of the file of undivided data; the last one is preferred."""
_PROBE = 100  # rows from which the columns are found


class TableSet(ImageFiles):
    """The images that a CSV file lists, in its order; see `ImageSet`.

    The column of the files is the one whose values name image files (with or without extension), see `_image_files`;
    the column of the labels is called `label`, `class` or the like, or is the only other column. Rows without a label
    or whose image is missing are skipped and counted.

    Raises:
        RMTError: the file cannot be read, a column cannot be found, there is only one class, no image is there.
    """

    def __init__(self, path: Path):
        self.root = path.parent
        heading, rows = _read(path)
        files = _image_files(path)
        file_column = _file_column(path, heading, rows, files)
        label_column = _label_column(path, heading, file_column)
        self.columns: tuple[str, str] = heading[file_column], heading[label_column]
        self.skipped = {}
        kept: dict[str, str] = {}  # file -> label
        for row in rows:
            found, label = files.get(_stem(row[file_column])), row[label_column].strip()
            if found is not None and kept.get(found, label) != label and label:
                raise RMTError(
                    f"{path}: {found} has the labels {preview([kept[found], label])}; a classifier learns one label of "
                    "each image"
                )
            reasons = {"row without a label": not label, "row whose image is missing": found is None}
            reasons["row of an image that another row lists"] = found in kept
            if reason := next((reason for reason, holds in reasons.items() if holds), ""):
                self.skipped[reason] = self.skipped.get(reason, 0) + 1
            elif found is not None:
                kept[found] = label
        names = sorted(set(kept.values()), key=_numbers_first)
        if not 2 <= len(names) <= MAX_CLASSES:
            what = f"{len(names):,} different values in the column {self.columns[1]!r}"
            raise RMTError(f"{path}: {what}, where a classifier needs 2 to {MAX_CLASSES:,} classes")
        self.classes = tuple(names)
        label_of = {name: number for number, name in enumerate(names)}
        self.labels = np.array([label_of[label] for label in kept.values()], dtype=np.int64)
        self._paths = np.array([os.fsencode(name) for name in kept])


def table_files(root: Path) -> dict[Split, Path]:
    """The CSV files of the splits in a folder: `train.csv`, `val.csv`, …, or an undivided `labels.csv`.

    Empty if `root` has no such file for training whose rows name images. Raises `RMTError` for one that cannot be read.
    """
    found = {_split_word(path.stem): path for path in sorted(root.glob("*.[cC][sS][vV]")) if path.is_file()}
    tables = {split: found[word] for split, word in by_split(found, f"{root}: CSV files").items()}
    if "train" not in tables:
        tables.update(("train", path) for word in _WHOLE for name, path in found.items() if name.lower() == word)
    if "train" not in tables:
        return {}
    if not _image_files(tables["train"]):
        return {}
    # A test.csv usually has no labels: it lists the images of a competition's submission.
    return {split: path for split, path in tables.items() if split == "train" or _has_labels(path)}


def _split_word(stem: str) -> str:
    return re.sub(r"[-_ ](labels|annotations|metadata)$", "", stem, flags=re.IGNORECASE)


def _has_labels(path: Path) -> bool:
    try:
        heading, rows = _read(path)
        _label_column(path, heading, _file_column(path, heading, rows, _image_files(path)))
    except RMTError:
        return False
    return True


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """The heading and the rows, all as long as the heading."""
    try:
        with open_text(path) as file:
            sample = file.read(8192)
            file.seek(0)
            lines = iter(csv.reader(_lines(file, path), delimiter=_delimiter(sample)))
            heading = [word.strip() for word in next(lines, [])]
            rows = list(_rows(lines, len(heading), path))
    except OSError as error:
        raise RMTError(f"{path}: cannot be read ({error.strerror})") from None
    except csv.Error as error:
        raise RMTError(f"{path}: not a CSV file ({error})") from None
    if twice := [name for name, count in Counter(filter(None, heading)).items() if count > 1]:
        raise RMTError(f"{path}: columns of the same name: {preview(twice)}; rename or remove one")
    if len(heading) < 2 or not rows:
        raise RMTError(f"{path}: a heading and rows of at least two columns are expected: image file and label")
    return heading, rows


def _lines(file: IO[str], path: Path) -> Iterator[str]:
    """The lines of a file. Raises `RMTError` for one that is too long for a list of images and labels."""
    while line := file.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise RMTError(f"{path}: a line of more than {MAX_LINE:,} characters, so it is not a list of images")
        yield line


def _rows(lines: Iterator[list[str]], width: int, path: Path) -> Iterator[list[str]]:
    for number, row in enumerate(lines):
        if number >= MAX_ROWS:
            raise RMTError(f"{path}: more than {MAX_ROWS:,} rows")
        if row:
            yield [*row, *[""] * (width - len(row))][:width]


def _delimiter(sample: str) -> str:
    first = sample.partition("\n")[0]
    return max((",", ";", "\t"), key=first.count)


def _image_files(table: Path) -> dict[str, str]:
    """The image files that a CSV file can name, relative to its folder: by relative path, and by name, both without
    extension.

    They lie beside it, in `IMAGE_FOLDERS` and in the folders named like a split. Where its own split has a folder, a
    name alone is not that of an image in the folder of another split, which may have the same names.
    """
    root, split = table.parent, split_of(_split_word(table.stem))
    folders = {name: part for part in NAMES for name in folder_names(root) if split_of(name) == part}
    found: dict[str, str] = {}
    for folder in sorted([*IMAGE_FOLDERS, *folders], key=lambda name: folders.get(name) != split):
        by_name = folders.get(folder, split) == split or split not in folders.values()
        try:
            entries = sorted(entry.name for entry in os.scandir(root / folder) if not entry.name.startswith("."))
        except OSError:
            continue
        for name in entries:
            stem, extension = os.path.splitext(name)
            if extension.lower() in EXTENSIONS:
                if by_name:
                    found.setdefault(stem, os.path.join(folder, name))
                found.setdefault(os.path.join(folder, stem), os.path.join(folder, name))
    return found


def _stem(value: str) -> str:
    value = value.strip().replace("\\", "/").removeprefix("./")
    stem, extension = os.path.splitext(value)
    return stem if extension.lower() in EXTENSIONS else value


def _file_column(path: Path, heading: list[str], rows: Sequence[list[str]], files: dict[str, str]) -> int:
    probe = rows[:: max(1, len(rows) // _PROBE)]
    hits = [sum(_stem(row[column]) in files for row in probe) for column in range(len(heading))]
    if not max(hits):
        example = rows[0][0][:40]
        raise RMTError(
            f"{path}: no column names images in {path.parent} or its folders images/, train/ (first value: {example!r})"
        )
    return hits.index(max(hits))


def _label_column(path: Path, heading: list[str], file_column: int) -> int:
    others = [column for column in range(len(heading)) if column != file_column]
    named = [column for name in LABEL_NAMES for column in others if heading[column].lower() == name]
    if named:
        return named[0]
    if len(others) == 1:
        return others[0]
    columns = preview([heading[column] for column in others])
    raise RMTError(f"{path}: which column is the label? There are {columns}; call it 'label' in the heading")


def _numbers_first(name: str) -> tuple[float, str]:
    """Sorts numbers by value, then other names."""
    return (float(name), name) if name.isdecimal() else (float("inf"), name)
