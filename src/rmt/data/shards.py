"""Parquet shards, read through Hugging Face `datasets`: memory-mapped, random access, no network.

`datasets` converts the shards once into an Arrow file in our cache folder (see `cache.py`) and maps that into memory.
A row is a struct `image` of `bytes` and `path`, and an integer `label`; the images stay compressed bytes, which our
own reader decodes, so that a bad image is the same thing here as in a folder.
"""

import glob
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from rmt.data.cache import VARIABLE, cache_folder
from rmt.data.images import BadImage, read_image
from rmt.data.remote import RemoteFile
from rmt.data.sets import listed
from rmt.errors import RMTError

S = TypeVar("S", Path, RemoteFile)

COLUMNS = ["image", "label"]
_QUIET_BYTES = 256 * 2**20  # converting more than this takes long enough to deserve a progress bar


class ShardSet:
    """The rows of parquet shards, in the order of the files given.

    Class names come from the `ClassLabel` that `datasets` writes into the metadata; without it the classes are the
    numbers 0…K−1. Raises `RMTError` for a shard that is missing, cut off or broken, for other columns, for labels out
    of range, for classes without an image, and for a cache that cannot be written.
    """

    skipped: dict[str, int]

    def __init__(self, shards: Sequence[Path]):
        self.shards = tuple(shards)
        self._ends = np.cumsum([_rows(shard) for shard in shards])
        self._table, self.classes = _open(self.shards)
        self._take_labels()

    def _take_labels(self) -> None:
        """Labels and chunks of `_table`, once it and `classes` (() for numbers) are there."""
        self.skipped = {}
        labels = self._table.column("label").combine_chunks()
        if labels.null_count:
            raise RMTError(f"{self._where()}: {labels.null_count:,} rows have no label")
        self.labels = labels.to_numpy(zero_copy_only=False).astype(np.int64)
        if not len(self.labels):
            raise RMTError(f"{self._where()}: no rows")
        self._check_labels()
        self._find_chunks()

    def _check_labels(self) -> None:
        if self.labels.min() < 0:
            raise RMTError(f"{self._where()}: label {self.labels.min()}, so this split carries no labels")
        if not self.classes:
            self.classes = tuple(str(label) for label in range(int(self.labels.max()) + 1))
        if self.labels.max() >= len(self.classes):
            raise RMTError(f"{self._where()}: label {self.labels.max()}, but only {len(self.classes)} classes")
        if len(self.classes) < 2:
            raise RMTError(f"{self._where()}: only one class; a classifier needs two or more")
        sizes = np.bincount(self.labels, minlength=len(self.classes))
        empty = [self.classes[label] for label in np.flatnonzero(sizes == 0)]
        if empty:
            raise RMTError(f"{self._where()}: no image of class {listed(empty)}")

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
        chunk = int(np.searchsorted(self._chunk_ends, index, side="right"))
        start = int(self._chunk_ends[chunk - 1]) if chunk else 0
        data = self._chunks[chunk][int(index) - start].as_py()
        if data is None:
            raise BadImage(self.name(index), "the row holds no image bytes")
        try:
            return read_image(data)
        except BadImage as error:
            raise BadImage(self.name(index), error.reason) from None

    def name(self, index: int) -> str:
        shard = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[shard - 1]) if shard else 0
        return f"{self.shards[shard]}[{index - start}]"

    def _where(self) -> str:
        return str(self.shards[0]) if len(self.shards) == 1 else f"{self.shards[0].parent}/*{self.shards[0].suffix}"


def complete(shards: Sequence[S]) -> Sequence[S]:
    """The same shards, if none of those that the names announce (`-00003-of-00008`) is missing, else `RMTError`."""
    series: dict[tuple[str, int, str], set[int]] = {}
    for shard in shards:
        if match := re.search(r"^(.*)-(\d+)-of-(\d+)(\.\w+)$", shard.name):
            series.setdefault((match[1], int(match[3]), match[4]), set()).add(int(match[2]))
    for (stem, total, suffix), present in series.items():
        if missing := [f"{stem}-{i:05d}-of-{total:05d}{suffix}" for i in range(total) if i not in present]:
            where = str(shards[0]).rpartition("/")[0]
            raise RMTError(f"{where}: {len(missing)} of {total} shards are missing: {listed(missing, 3)}")
    return shards


def _rows(shard: Path) -> int:
    """The number of rows by the shard's footer, which a file that was cut off does not have."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(shard) as file:
            absent = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if absent:
                found = listed(file.schema_arrow.names)
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
