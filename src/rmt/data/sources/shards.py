"""Labelled images in parquet shards or WebDataset tars, local or remote, with random access.

Each shard is converted to a memory-mapped Arrow file in the cache folder. Either all shards are converted when the set
is opened, or they are *streamed*: converted when first used, within limited disk space. Labels are read when the set
is opened in both cases, so that exact epochs, evaluation of every image once and exact resuming need nothing else.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmt.data.files import size_on_disk
from rmt.data.images import BadImage, read_image
from rmt.data.order import ShardOrder
from rmt.data.sets import ImageSet, Subset, preview
from rmt.data.sources.cache import ShardCache
from rmt.data.sources.conversion import Shard, class_names, is_tar
from rmt.errors import RMTError
from rmt.terminal import plural


class ShardRows:
    """The images of the rows of a cache, in the order of its shards, with or without labels."""

    shards: tuple[Shard, ...]

    def __init__(self, cache: ShardCache):
        self.shards, self._cache = cache.shards, cache
        with ThreadPoolExecutor(8) as pool:
            self._tables = list(pool.map(cache.labels, range(len(self.shards))))
        self.ends: np.ndarray = np.cumsum([len(table) for table in self._tables], dtype=np.int64)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_tables"}

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def source(self, index: int) -> bytes:
        shard, row = self._place(index)
        data = self._cache.table(shard)["bytes"][row].as_py()
        if data is None:
            raise BadImage(self.name(index), "the row holds no image bytes")
        return data

    def load(self, index: int) -> Image.Image:
        data = self.source(index)
        try:
            return read_image(data)
        except BadImage as error:
            raise BadImage(self.name(index), error.reason) from None

    def name(self, index: int) -> str:
        shard, row = self._place(index)
        key = self.key(index)
        return f"{self.shards[shard]}[{row if key is None else key}]"

    def key(self, index: int) -> str | None:
        """The name of the sample in its tar; None for a row of a parquet shard."""
        shard, row = self._place(index)
        return self._cache.table(shard)["key"][row].as_py() if is_tar(self.shards[shard]) else None

    def prefetch(self, indices: np.ndarray) -> None:
        """Convert the shards of images that are used soon, in the background."""
        self._cache.prefetch(np.unique(np.searchsorted(self.ends, indices, side="right")).tolist())

    def _place(self, index: int) -> tuple[int, int]:
        """The shard of image number `index`, and its row there."""
        shard = bisect_right(self.ends, index)  # on one number faster than numpy's
        return shard, int(index) - (int(self.ends[shard - 1]) if shard else 0)


class ShardSet(ShardRows):
    """The labelled images of shards, in the order of the shards given. Pickling it does not copy the images.

    A parquet row has a column `image` (a struct with the field `bytes`, as Hugging Face `datasets` writes it, or the
    bytes alone) and an integer `label`; a sample of a tar has one image and a `.cls` with the number of its class.
    Without class names (see `class_names`) the classes are called by their numbers.

    Args:
        shards: local or remote shards.
        buffer: stream the shards: the training order is random among this many images (see `ShardOrder`).
        room: bytes on disk that streamed shards may take; half of the free disk space by default.
    Raises:
        RMTError: a shard is missing, truncated or has other contents; there are no rows, labels out of range, fewer
            than two classes or classes without an image; the network fails; the cache cannot be written.
    """

    def __init__(self, shards: Sequence[Shard], *, buffer: int | None = None, room: int | None = None):
        self.buffer = buffer
        self.skipped: dict[str, int] = {}
        cache = ShardCache(shards, limited=buffer is not None, room=room)
        if buffer is None:
            cache.convert_all()
        super().__init__(cache)
        tables = self._tables
        for shard, table in zip(self.shards, tables, strict=True):
            if nulls := table["label"].null_count:
                raise RMTError(f"{shard}: {plural(nulls, 'row')} with no label")
        self._sizes = [size_on_disk(s) if isinstance(s, Path) else str(s.size) for s in self.shards]
        self.labels: np.ndarray = np.concatenate(
            [np.empty(0, np.int64), *(np.from_dlpack(chunk) for table in tables for chunk in table["label"].chunks)]
        )
        where = str(shards[0]) if len(shards) == 1 else str(shards[0]).rpartition("/")[0]
        self.classes: tuple[str, ...] = checked_classes(self.labels, self._class_names(), where)

    def _class_names(self) -> tuple[str, ...]:
        """The list of class names that every shard has; () if none has one. Raises `RMTError` unless all agree."""
        pairs = zip(self.shards, self._tables, strict=True)
        # The tars of a folder have one list beside them.
        named = {str(shard).rpartition("/")[0] if is_tar(shard) else shard: (shard, table) for shard, table in pairs}
        lists = {class_names(shard, table.schema.metadata): shard for shard, table in named.values()}
        if len(lists) > 1:
            one, other = list(lists.values())[:2]
            what = f"{one} and {other} list different classes, or the same in another order"
            if () in lists:
                what = f"{lists[()]} has no class names, and other shards have"
            remedy = "write the shards again with one list of classes, or beside tars put the same classes.txt"
            raise RMTError(f"{what}: {remedy}")
        return next(iter(lists), ())

    @property
    def order(self) -> ShardOrder | None:
        """The training order of streamed shards; None if any order will do."""
        return None if self.buffer is None else ShardOrder(self.ends, self.buffer)

    def facts(self, index: int) -> tuple[str, str]:
        shard, row = self._place(index)
        return f"{self.shards[shard].name}[{row}]", self._sizes[shard]

    def prefetch(self, indices: np.ndarray) -> None:
        """As `ShardRows.prefetch`; does nothing unless streamed."""
        if self.buffer is not None:
            super().prefetch(indices)


def shard_order(image_set: ImageSet) -> ShardOrder | None:
    """The training order of streamed images, or of a part of them; None for other images."""
    if isinstance(image_set, ShardSet):
        return image_set.order
    if isinstance(image_set, Subset) and (whole := shard_order(image_set.parent)) is not None:
        return ShardOrder(np.searchsorted(image_set.indices, whole.ends), whole.buffer)  # the part keeps the order
    return None


def prefetch(image_set: ImageSet, indices: np.ndarray) -> None:
    """Have streamed images, which are used soon, read in the background."""
    while isinstance(image_set, Subset):
        indices, image_set = image_set.indices[indices], image_set.parent
    if isinstance(image_set, ShardSet):
        image_set.prefetch(indices)


def checked_classes(labels: np.ndarray, classes: tuple[str, ...], where: str) -> tuple[str, ...]:
    """Check that labels (N,) int64 fit the class names; without names the classes are called by their numbers.

    Raises `RMTError`, beginning with `where`, for no rows, labels out of range, fewer than two classes, and classes
    without an image.
    """
    if not len(labels):
        raise RMTError(f"{where}: no rows")
    if labels.min() < 0:
        raise RMTError(f"{where}: label {labels.min()}, so this split carries no labels")
    if not classes and labels.max() >= len(labels):  # before a name is made for every number up to it
        raise RMTError(
            f"{where}: label {labels.max()} in {plural(len(labels), 'row')}, so that some classes have no image: "
            "number the classes from 0 on"
        )
    classes = classes or tuple(str(label) for label in range(int(labels.max()) + 1))
    if labels.max() >= len(classes):
        raise RMTError(f"{where}: label {labels.max()}, but only {plural(len(classes), 'class')}")
    if len(classes) < 2:
        raise RMTError(f"{where}: only one class; a classifier needs two or more")
    if empty := [classes[label] for label in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0)]:
        raise RMTError(f"{where}: no image of class {preview(empty)}")
    return classes


def check_complete(shards: Sequence[Shard]) -> None:
    """Raise `RMTError` if a shard is missing that the names of the others announce (`-00003-of-00008`)."""
    series: dict[tuple[str, int, str], set[int]] = {}
    for shard in shards:
        if match := re.search(r"^(.*)-(\d{1,18})-of-(\d{1,18})(\.\w+)$", shard.name):
            series.setdefault((match[1], int(match[3]), match[4]), set()).add(int(match[2]))
    for (stem, total, suffix), present in series.items():
        # The total is a number in a file's name: nothing is made for each up to it.
        if missing := total - sum(number < total for number in present):
            first = islice((i for i in range(total) if i not in present), 3)
            names = ", ".join(f"{stem}-{i:05d}-of-{total:05d}{suffix}" for i in first)
            more = f" and {missing - 3:,} more" if missing > 3 else ""
            where = str(shards[0]).rpartition("/")[0]
            raise RMTError(f"{where}: {missing:,} of {plural(total, 'shard')} missing: {names}{more}")
