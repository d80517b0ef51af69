"""Parquet shards, read through Hugging Face `datasets`: memory-mapped, random access, no network.

`datasets` converts the shards once into an Arrow file in our cache folder (`rmt/cache.py`) and maps that into memory.
A row is a struct `image` of `bytes` and `path`, and an integer `label`; the images stay compressed bytes, which our
own reader decodes, so that a bad image is the same thing here as in a folder.
"""

import glob
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from rmt.cache import VARIABLE, cache_folder
from rmt.data.images import BadImage, read_image
from rmt.data.sets import preview
from rmt.data.sources.remote import RemoteFile
from rmt.errors import RMTError

S = TypeVar("S", Path, RemoteFile)

COLUMNS = ["image", "label"]
_QUIET_BYTES = 256 * 2**20  # converting more than this takes long enough to deserve a progress bar


class TableSet(ABC):
    """The images of a memory-mapped table with the columns image (a struct that begins with the bytes) and label.

    Args:
        shards: the files it was made of.
        table: the table.
        classes: their names; () makes them the numbers 0…K−1.

    Raises `RMTError` for no rows, for labels out of range, and for classes without an image.
    """

    def __init__(self, shards: Sequence[Path], table: Any, classes: tuple[str, ...]):
        self.shards, self._table = tuple(shards), table
        self.skipped: dict[str, int] = {}
        where = str(shards[0]) if len(shards) == 1 else f"{shards[0].parent}/*{shards[0].suffix}"
        labels = table.column("label").combine_chunks()
        if labels.null_count:
            raise RMTError(f"{where}: {labels.null_count:,} rows have no label")
        self.labels = labels.to_numpy(zero_copy_only=False).astype(np.int64)
        self.classes = checked_classes(self.labels, classes, where)
        self._find_chunks()

    def _find_chunks(self) -> None:
        """Keep the arrays of image bytes at hand, one per chunk of the table: a tenth of the cost of slicing it."""
        self._chunks = [chunk.flatten()[0] for chunk in self._table.column("image").chunks]
        self._chunk_ends = np.cumsum([len(chunk) for chunk in self._chunks])

    def __getstate__(self) -> dict[str, Any]:
        # The table travels to another process as the name of its file; the arrays would travel as all the images.
        return {name: value for name, value in self.__dict__.items() if name != "_chunks"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._find_chunks()

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        chunk, row = part_and_row(self._chunk_ends, index)
        return decoded(self._chunks[chunk][row].as_py(), lambda: self.name(index))

    @abstractmethod
    def name(self, index: int) -> str:
        """What to call image number `index` in a message."""


class ShardSet(TableSet):
    """The rows of parquet shards, in the order of the files given.

    Class names come from the `ClassLabel` that `datasets` writes into the metadata; without it the classes are the
    numbers 0…K−1. Raises `RMTError` for a shard that is missing, cut off or broken, for other columns, for a cache that
    cannot be written, and as `TableSet` does.
    """

    def __init__(self, shards: Sequence[Path]):
        self._ends = np.cumsum([_rows(shard) for shard in shards])
        super().__init__(shards, *_open(tuple(shards)))

    def name(self, index: int) -> str:
        shard, row = part_and_row(self._ends, index)
        return f"{self.shards[shard]}[{row}]"


def checked_classes(labels: np.ndarray, classes: tuple[str, ...], where: str) -> tuple[str, ...]:
    """The class names, numbers if there are none, once it is certain that labels (N,) int64 fit them.

    Raises `RMTError`, which begins with `where`, for no rows, labels out of range, fewer than two classes, and classes
    without an image.
    """
    if not len(labels):
        raise RMTError(f"{where}: no rows")
    if labels.min() < 0:
        raise RMTError(f"{where}: label {labels.min()}, so this split carries no labels")
    classes = classes or tuple(str(label) for label in range(int(labels.max()) + 1))
    if labels.max() >= len(classes):
        raise RMTError(f"{where}: label {labels.max()}, but only {len(classes)} classes")
    if len(classes) < 2:
        raise RMTError(f"{where}: only one class; a classifier needs two or more")
    if empty := [classes[label] for label in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)]:
        raise RMTError(f"{where}: no image of class {preview(empty)}")
    return classes


def part_and_row(ends: np.ndarray, index: int) -> tuple[int, int]:
    """Which of several parts laid end to end holds number `index`, and at which row; `ends` are their running sums."""
    part = int(np.searchsorted(ends, index, side="right"))
    return part, int(index) - (int(ends[part - 1]) if part else 0)


def decoded(data: bytes | None, name: Callable[[], str]) -> Image.Image:
    """The image of a row. Raises `BadImage`, which calls it `name()`."""
    if data is None:
        raise BadImage(name(), "the row holds no image bytes")
    try:
        return read_image(data)
    except BadImage as error:
        raise BadImage(name(), error.reason) from None


def complete(shards: Sequence[S]) -> Sequence[S]:
    """The same shards, if none of those that the names announce (`-00003-of-00008`) is missing, else `RMTError`."""
    series: dict[tuple[str, int, str], set[int]] = {}
    for shard in shards:
        if match := re.search(r"^(.*)-(\d+)-of-(\d+)(\.\w+)$", shard.name):
            series.setdefault((match[1], int(match[3]), match[4]), set()).add(int(match[2]))
    for (stem, total, suffix), present in series.items():
        if missing := [f"{stem}-{i:05d}-of-{total:05d}{suffix}" for i in range(total) if i not in present]:
            where = str(shards[0]).rpartition("/")[0]
            raise RMTError(f"{where}: {len(missing)} of {total} shards are missing: {preview(missing, 3)}")
    return shards


def _rows(shard: Path) -> int:
    """The number of rows by the shard's footer, which a file that was cut off does not have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as file:
            absent = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if absent:
                found = preview(file.schema_arrow.names)
                raise RMTError(f"{shard}: no column {' or '.join(absent)}; it has {found}")
            return file.metadata.num_rows
    except FileNotFoundError:
        raise RMTError(f"{shard}: no such file") from None
    except PermissionError:
        raise RMTError(f"{shard}: no permission to read it") from None
    except (pa.ArrowException, OSError) as error:
        raise RMTError(f"{shard}: not a whole parquet file ({first_line(error)}); copy it again") from None


def _open(shards: tuple[Path, ...]):
    """The memory-mapped table with the columns image and label, and the class names () if the metadata has none."""
    import datasets

    folder = cache_folder() / "datasets"
    size = sum(shard.stat().st_size for shard in shards)
    try:
        with quiet_datasets(datasets, bars=size >= _QUIET_BYTES):
            # `datasets` takes file names for patterns
            names = [glob.escape(str(shard.absolute())) for shard in shards]
            found = datasets.Dataset.from_parquet(names, cache_dir=str(folder), columns=COLUMNS)
            label = found.features["label"]
            found = found.cast_column("image", datasets.Image(decode=False))
    except Exception as error:  # what a broken shard raises, and wrapped in what, is the library's
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise RMTError(f"{folder}: {cause.strerror}, writing the cache; set {VARIABLE} elsewhere") from None
        where = shards[0] if len(shards) == 1 else shards[0].parent
        raise RMTError(f"{where}: the shards cannot be read ({first_line(cause)})") from None
    if isinstance(label, datasets.ClassLabel):
        return found.data, tuple(label.names)
    if getattr(label, "dtype", "").startswith(("int", "uint")):
        return found.data, ()
    raise RMTError(f"{shards[0]}: the column label must hold integers, not {label}")


@contextmanager
def quiet_datasets(datasets, bars: bool) -> Iterator[None]:
    """Without its log lines, for we raise its errors, and with its progress bars only when they help."""
    verbosity, had_bars = datasets.logging.get_verbosity(), not datasets.are_progress_bars_disabled()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    if not bars:
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(verbosity)
        if had_bars:
            datasets.enable_progress_bars()


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
