"""Shards that outgrow the disk, or lie at an address: read through a bounded cache, in an order that suits it.

A shard is fetched when one of its images is first wanted, turned into an Arrow file in the cache folder and mapped into
memory; the files unused longest make room for new ones. So that each is fetched about once an epoch, the training order
(`rmt.data.order`) is random over whole shards and over the images of a few shards at a time.

Labels are read first, once, and kept: with them access by number stays what it is for any image set, and so do exact
epochs, evaluation of every image once, and resuming with the very next batch. Nothing has to be saved for it.
"""

import hashlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from rmt.cache import VARIABLE, cache_folder
from rmt.data.order import Streamed
from rmt.data.sets import ImageSet, Relabelled, Subset
from rmt.data.sources.shard_rows import Shard, class_names, convert, label_column, names_in
from rmt.data.sources.shards import checked_classes, decoded, part_and_row
from rmt.errors import RMTError

_TABLES = 64  # mapped at a time in one process


class StreamSet:
    """The rows of parquet shards or WebDataset tars, of which only some are on this disk at a time.

    Args:
        shards: files here or at addresses, in this order.
        buffer: images among which the training order is random; whole shards are taken until they have as many.
        room: bytes that the cached shards may take; half of the free disk unless given.

    Raises `RMTError` as `ShardSet` does, and for what the network or the disk refuses.
    """

    _tables: OrderedDict[int, pa.Table]
    _ahead: ThreadPoolExecutor | None
    _expected: set[int]

    def __init__(self, shards: Sequence[Shard], *, buffer: int, room: int | None = None):
        self.sources, self.buffer = tuple(shards), buffer
        digest = hashlib.sha256("\n".join(f"{shard} {_size(shard)}" for shard in shards).encode()).hexdigest()
        self._folder = cache_folder() / "streams" / digest[:20]
        with _plain_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._room = room or (shutil.disk_usage(self._folder).free + _used(self._folder)) // 2
        self._start_cache()
        self.skipped: dict[str, int] = {}
        classes, labels = self._read_labels()
        self._ends = np.cumsum([len(part) for part in labels])
        self.labels = np.concatenate(labels)
        where = str(shards[0]) if len(shards) == 1 else str(shards[0]).rpartition("/")[0]
        self.classes = checked_classes(self.labels, classes, where)

    @property
    def streamed(self) -> Streamed:
        """The training order of these images."""
        return Streamed(self._ends, self.buffer)

    def __len__(self) -> int:
        return len(self.labels)

    def load(self, index: int) -> Image.Image:
        table, row = self._row(index)
        return decoded(table.column("bytes")[row].as_py(), lambda: self.name(index))

    def name(self, index: int) -> str:
        shard, row = part_and_row(self._ends, index)
        return f"{self.sources[shard]}[{row}]"

    def expect(self, indices: np.ndarray) -> None:
        """Fetches, in the background, the shards of images that will be asked for soon."""
        for shard in np.unique(np.searchsorted(self._ends, indices, side="right")).tolist():
            if shard not in self._expected:
                self._expected = {*list(self._expected)[-_TABLES:], shard}
                self._ahead = self._ahead or ThreadPoolExecutor(2, "rmt-shards")
                self._ahead.submit(_quietly, self._arrow, shard)

    def _start_cache(self) -> None:
        self._tables, self._ahead, self._expected = OrderedDict(), None, set()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        process_s_own = {"_tables", "_ahead", "_expected", "_lock"}
        return {name: value for name, value in self.__dict__.items() if name not in process_s_own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = state
        self._start_cache()

    def _row(self, index: int) -> tuple[pa.Table, int]:
        shard, row = part_and_row(self._ends, index)
        with self._lock:
            if shard not in self._tables:
                self._tables[shard] = self._map(shard)
                if len(self._tables) > _TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(shard)
            return self._tables[shard], row

    def _map(self, shard: int) -> pa.Table:
        """The Arrow table of a shard. Another process may remove the file meanwhile, but not a mapping of it."""
        while True:
            path = self._arrow(shard)
            with suppress(FileNotFoundError):
                os.utime(path)  # used now
                return pa.ipc.open_file(pa.memory_map(str(path))).read_all()

    def _arrow(self, shard: int) -> Path:
        """The cached file of a shard, fetched if need be, by one process at a time."""
        from filelock import FileLock  # comes with torch

        path = self._folder / f"{shard:06d}.arrow"
        if path.exists():
            return path
        with _plain_errors(path), FileLock(str(path) + ".lock"):
            if not path.exists():
                _make_room(self._folder, self._room, _size(self.sources[shard]))
                draft = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}.draft")
                try:
                    convert(self.sources[shard], draft)
                    os.replace(draft, path)
                finally:
                    draft.unlink(missing_ok=True)
        return path

    def _read_labels(self) -> tuple[tuple[str, ...], list[np.ndarray]]:
        """Class names (() if the shards have none) and every shard's labels; kept beside the cached shards."""
        classes = class_names(self.sources[0])
        if classes is None:
            classes = names_in(self._map(0).schema.metadata)
        with ThreadPoolExecutor(8) as pool:
            return classes, list(pool.map(self._labels_of, range(len(self.sources))))

    def _labels_of(self, shard: int) -> np.ndarray:
        kept = self._folder / f"{shard:06d}.npy"
        with suppress(OSError, ValueError):
            return np.load(kept)
        column = label_column(self.sources[shard])
        if column is None:
            column = self._map(shard).column("label")
        if column.null_count:
            raise RMTError(f"{self.sources[shard]}: {column.null_count:,} rows have no label")
        labels = column.to_numpy().astype(np.int64)
        with _plain_errors(kept):
            draft = kept.with_suffix(f".{os.getpid()}.draft.npy")
            np.save(draft, labels)
            os.replace(draft, kept)
        return labels


def training_order(image_set: ImageSet) -> Streamed | None:
    """The order for images that are streamed, or a part of such; None for images that are all at hand."""
    if isinstance(image_set, StreamSet):
        return image_set.streamed
    if isinstance(image_set, Relabelled):
        return training_order(image_set.parent)
    if isinstance(image_set, Subset) and (whole := training_order(image_set.parent)) is not None:
        return Streamed(np.searchsorted(image_set.indices, whole.ends), whole.buffer)  # parts keep the set's order
    return None


def expect(image_set: ImageSet, indices: np.ndarray) -> None:
    """Has the shards of images that will be asked for soon fetched in the background, if they are streamed."""
    while isinstance(image_set, Subset | Relabelled):
        if isinstance(image_set, Subset):
            indices = image_set.indices[indices]
        image_set = image_set.parent
    if isinstance(image_set, StreamSet):
        image_set.expect(indices)


def _quietly(work: Any, *args: Any) -> None:
    """Fetching ahead is an offer: whoever needs the shard meets the same trouble, and reports it."""
    with suppress(RMTError, OSError):
        work(*args)


def _size(shard: Shard) -> int:
    return shard.stat().st_size if isinstance(shard, Path) else shard.size


def _used(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.arrow"))


def _make_room(folder: Path, room: int, needed: int) -> None:
    """Removes the shards unused longest until `needed` bytes fit."""
    files = []
    for file in folder.glob("*.arrow"):
        with suppress(FileNotFoundError):
            status = file.stat()
            files.append((status.st_mtime_ns, status.st_size, file))
    used = sum(size for _, size, _ in files)
    for _, size, file in sorted(files):
        if used + needed <= room:
            break
        file.unlink(missing_ok=True)
        used -= size


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RMTError(f"{path}: {error.strerror or error}, writing the cache; set {VARIABLE} elsewhere") from error
