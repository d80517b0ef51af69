"""The file of answers: written in parts beside it, and whole at the end; a second call adds what is missing."""

import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from rmt.atomic import disk_errors_as_rmt_error, replace_file
from rmt.errors import RMTError
from rmt.inference.bulk.formats import FORMATS, Format, NotWhole
from rmt.inference.bulk.rows import Rows
from rmt.output_folder import create_folder

PARTS = ".parts"
"""What the name of the folder of parts ends with."""


class AnswersFile:
    """Answers of one network for images that are known by their names.

    Args:
        path: the file; its suffix chooses the format.
        model: of the rows, which is the same in all of them: name and fingerprint.
        rows: its columns.
    Raises:
        RMTError: the file or its parts have answers of another network, or it is no whole file of answers, or cannot be
            written.
    """

    path: Path
    model: str
    rows: Rows

    def __init__(self, path: Path, model: str, rows: Rows) -> None:
        if path.is_dir():
            raise RMTError(f"--output {path} is a folder, not a file")
        self.path, self.model, self.rows = path, model, rows
        self.format: Format = FORMATS[path.suffix.lower()]
        self.folder: Path = path.with_name(path.name + PARTS)
        self.done: set[str] = set()
        """The images that have answers."""
        if path.exists():
            self._add(path, self.format.keys(path))
        for part in self._parts():
            try:
                keys = list(FORMATS[".parquet"].keys(part))
            except NotWhole:  # a power cut
                part.unlink()
                continue
            if all(image in self.done for image, _ in keys):  # `finish` was stopped before it removed its parts
                part.unlink()
            else:
                self._add(part, keys)
        create_folder(self.folder)

    def _parts(self) -> list[Path]:
        """In the order of their images."""
        return sorted(self.folder.glob("part-*.parquet"))

    def firsts(self) -> list[int]:
        """The number of the first image of each part, ascending."""
        return sorted({int(part.name.split("-")[1]) for part in self._parts()})

    def _add(self, path: Path, keys: Iterable[tuple[str, str]]) -> None:
        for image, model in keys:
            if model != self.model:
                raise RMTError(
                    f"{path} has answers of {model}, not of {self.model}: another network or other options; choose "
                    "another --output, or delete it"
                )
            self.done.add(image)

    def write(self, first: int, table: pa.Table) -> None:
        """Write the part of some images, of which `first` is the number of the first."""
        if len(table) == 0:
            return
        number, stem = 0, f"part-{first:012d}"
        while (path := self.folder / f"{stem}-{number}.parquet").exists():  # of an earlier call with other images
            number += 1
        with replace_file(path) as draft:
            pq.write_table(table, draft)
        self.done.update(table["image"].to_pylist())

    def finish(self) -> None:
        """Write the whole file, and remove the parts."""
        parts = self._parts()
        if parts or not self.path.exists():
            tables = (pq.read_table(part, schema=self.rows.schema) for part in parts)
            with replace_file(self.path) as draft:
                self.format.write(draft, self.path if self.path.exists() else None, tables, self.rows)
        with disk_errors_as_rmt_error(self.folder):
            shutil.rmtree(self.folder)

    def discard(self) -> None:
        """Remove the folder of parts, which has none."""
        with suppress(OSError):
            self.folder.rmdir()
