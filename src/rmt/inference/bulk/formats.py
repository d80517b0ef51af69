"""The formats of answers files: parquet, CSV, JSON lines."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rmt.errors import RMTError
from rmt.inference.bulk.rows import Rows

_DIGITS = 7  # of numbers in JSON: those of float32
csv.field_size_limit(2**31 - 1)  # run lengths of large masks


class NotWhole(RMTError):
    """A file that is cut off, or no file of answers."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is no whole file of answers ({why}): delete it, or choose another --output")


class Format(ABC):
    """Reads and writes the files of one format."""

    @abstractmethod
    def keys(self, path: Path) -> Iterator[tuple[str, str]]:
        """Yields image and model of each row. Raises NotWhole."""

    @abstractmethod
    def write(self, path: Path, before: Path | None, tables: Iterable[pa.Table], rows: Rows) -> None:
        """Writes the rows of a file of this format, then those of tables."""


class Parquet(Format):
    def keys(self, path: Path) -> Iterator[tuple[str, str]]:
        with _reading(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["image", "model"]):
                yield from zip(batch["image"].to_pylist(), batch["model"].to_pylist(), strict=True)

    def write(self, path: Path, before: Path | None, tables: Iterable[pa.Table], rows: Rows) -> None:
        with pq.ParquetWriter(path, rows.schema) as writer:
            for table in chain(self._tables(before, rows.schema) if before else (), tables):
                writer.write_table(table)

    def _tables(self, path: Path, schema: pa.Schema) -> Iterator[pa.Table]:
        """Yields what a file has. Raises NotWhole: errors of reading only, as its user may write elsewhere."""
        with _reading(path), pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield pa.table(batch).cast(schema)


class _Text(Format):
    """Lines of text: those of earlier rows are copied as they are."""

    def write(self, path: Path, before: Path | None, tables: Iterable[pa.Table], rows: Rows) -> None:
        with open(path, "w", encoding="utf-8", newline="") as file:
            if before is None:
                self.begin(file, rows)
            else:
                with open(before, encoding="utf-8", newline="") as old:
                    while block := old.read(2**20):
                        file.write(block)
            for table in tables:
                self.append(file, table.to_pylist(), rows)

    def begin(self, file: IO[str], rows: Rows) -> None:
        """Writes what comes before the rows."""

    @abstractmethod
    def append(self, file: IO[str], content: list[dict[str, Any]], rows: Rows) -> None:
        """Writes rows."""


class Csv(_Text):
    def keys(self, path: Path) -> Iterator[tuple[str, str]]:
        with _reading(path), _open_whole(path) as file:
            reader = csv.reader(file, strict=True)
            if next(reader, [])[:2] != ["image", "model"]:
                raise ValueError("its columns are others")
            for row in reader:
                yield row[0], row[1]

    def begin(self, file: IO[str], rows: Rows) -> None:
        csv.writer(file, lineterminator="\n").writerow(["image", "model", *rows.csv_columns])

    def append(self, file: IO[str], content: list[dict[str, Any]], rows: Rows) -> None:
        writer = csv.writer(file, lineterminator="\n")
        for row in content:
            writer.writerows([row["image"], row["model"], *values] for values in rows.csv(row))


class JsonLines(_Text):
    def keys(self, path: Path) -> Iterator[tuple[str, str]]:
        with _reading(path), _open_whole(path) as file:
            for line in file:
                row = json.loads(line)
                yield row["image"], row["model"]

    def append(self, file: IO[str], content: list[dict[str, Any]], rows: Rows) -> None:
        file.writelines(json.dumps(_rounded(row), ensure_ascii=False) + "\n" for row in content)


FORMATS: dict[str, Format] = {".parquet": Parquet(), ".csv": Csv(), ".jsonl": JsonLines()}
"""By the suffix of the file."""


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors of reading a file, which anyone may have changed, into NotWhole."""
    try:
        yield
    except (pa.ArrowException, csv.Error, OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise NotWhole(path, reason) from None


@contextmanager
def _open_whole(path: Path) -> Iterator[IO[str]]:
    """A file of text, opened. Raises ValueError if its last line has no end."""
    with open(path, "rb") as file:
        file.seek(0, 2)
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                raise ValueError("its last line is cut off")
    with open(path, encoding="utf-8", newline="") as text:
        yield text


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
