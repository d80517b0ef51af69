"""Arrow files of shards in the cache folder, memory-mapped: all of them, or as many as there is room for."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from rmt.atomic import disk_errors_as_rmt_error, replace_file
from rmt.cache import VARIABLE, cache_folder
from rmt.data.sources.conversion import Shard, convert, read_labels, size_of
from rmt.errors import RMTError

_MAX_OPEN = 64  # files that one process keeps mapped if there is a limit: a mapped file takes space even when deleted
_MIN_BAR_BYTES = 256 * 2**20  # converting less than this is too quick for a progress bar
_MARGIN = 1.1  # free space required, relative to the bytes to convert


class ShardCache:
    """Converts shards to Arrow files when they are first used, and maps those into memory.

    The folder is named after path, size and time of modification of the shards (address and size of remote ones), so
    that changed shards are converted again. A file is there completely or not at all, and several processes may share
    the folder.

    Args:
        shards: local or remote shards.
        limited: keep the files within half of the free disk space, removing the least recently used.
        room: that limit in bytes, instead.
        labelled: every image must have a label.
    Raises:
        RMTError: a shard is missing, or the cache cannot be written.
    """

    shards: tuple[Shard, ...]
    labelled: bool

    def __init__(
        self, shards: Sequence[Shard], *, limited: bool = False, room: int | None = None, labelled: bool = True
    ):
        self.shards, self.labelled = tuple(shards), labelled
        self.sizes: list[int] = [size_of(shard) for shard in shards]
        identity = hashlib.sha256("\n".join(map(_identity, shards)).encode()).hexdigest()[:20]
        self.folder: Path = cache_folder() / "shards" / identity
        with _cache_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            used = sum(file.stat().st_size for file in self.folder.glob("*.arrow"))
            self.room: int | None = (room or (shutil.disk_usage(self.folder).free + used) // 2) if limited else None
        self._start()

    def _start(self) -> None:
        self._prefetching: ThreadPoolExecutor | None = None
        self._prefetched: set[int] = set()
        self.table = lru_cache(None if self.room is None else _MAX_OPEN)(self._map)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("shards", "labelled", "sizes", "folder", "room")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def labels(self, shard: int) -> pa.Table:
        """The column `label` of a shard and the shard's metadata; read without the images if possible, and kept."""
        path = self._path(shard).with_suffix(".labels")
        if not path.exists():
            found = None if self._path(shard).exists() else read_labels(self.shards[shard], labelled=self.labelled)
            if found is None:
                found = self.table(shard).select(["label"])
            with _cache_errors(path), replace_file(path) as draft, pa.ipc.new_file(str(draft), found.schema) as writer:
                writer.write_table(found)
        return _open(path)

    def missing(self) -> tuple[list[int], int]:
        """The shards that are not converted yet, and their bytes."""
        missing = [shard for shard in range(len(self.shards)) if not self._path(shard).exists()]
        return missing, sum(self.sizes[shard] for shard in missing)

    def convert_all(self) -> None:
        """Convert every shard that is not converted yet, with a progress bar if that takes long."""
        missing, total = self.missing()
        console = Console(stderr=True)
        columns = (TextColumn("converting shards"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        hidden = total < _MIN_BAR_BYTES or not console.is_terminal
        with Progress(*columns, console=console, disable=hidden) as bar, ThreadPoolExecutor(4) as pool:
            task = bar.add_task("", total=total)
            for _ in pool.map(lambda shard: self._fetch(shard, lambda count: bar.advance(task, count)), missing):
                pass

    def prefetch(self, shards: Iterable[int]) -> None:
        """Convert shards in the background that are used soon."""
        for shard in shards:
            if shard not in self._prefetched:
                self._prefetched = {*list(self._prefetched)[-_MAX_OPEN:], shard}
                self._prefetching = self._prefetching or ThreadPoolExecutor(2, "rmt-shards")
                self._prefetching.submit(self._fetch, shard)  # an error comes up again where the shard is used

    def _path(self, shard: int) -> Path:
        return self.folder / f"{shard:06d}.arrow"

    def _map(self, shard: int) -> pa.Table:
        """The table of a shard, mapped. Deleting the file to make room for others leaves the mapping intact."""
        while True:
            path = self._fetch(shard)
            with suppress(FileNotFoundError):  # another process has just deleted it
                os.utime(path)
                return _open(path)

    def _fetch(self, shard: int, advance: Callable[[int], object] = lambda count: None) -> Path:
        """The Arrow file of a shard, converted if it is not there, by one process at a time."""
        from filelock import FileLock  # comes with torch

        path = self._path(shard)
        if not path.exists():
            with _cache_errors(path), FileLock(f"{path}.lock"):
                if not path.exists():
                    self._make_room(self.sizes[shard])
                    with replace_file(path) as draft:
                        convert(self.shards[shard], draft, advance, self.labelled)
        return path

    def _make_room(self, needed: int) -> None:
        """Delete the least recently used files until `needed` bytes fit into the limit."""
        if self.room is None:
            return
        files = []
        for file in self.folder.glob("*.arrow"):
            with suppress(FileNotFoundError):
                status = file.stat()
                files.append((status.st_mtime_ns, status.st_size, file))
        used = sum(size for _, size, _ in files)
        for _, size, file in sorted(files):
            if used + needed <= self.room:
                break
            file.unlink(missing_ok=True)
            used -= size


def fit_disk(sets: Iterable[Sequence[Shard]]) -> bool:
    """Whether the disk has space to convert all shards of all sets, not counting those already converted."""
    needed = sum(ShardCache(shards).missing()[1] for shards in sets)
    return needed * _MARGIN <= shutil.disk_usage(cache_folder()).free


def _identity(shard: Shard) -> str:
    modified = shard.stat().st_mtime_ns if isinstance(shard, Path) else ""
    return f"{shard.absolute() if isinstance(shard, Path) else shard} {size_of(shard)} {modified}"


def _open(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:  # the table keeps the mapping, without a file descriptor
        return pa.ipc.open_file(file).read_all()


@contextmanager
def _cache_errors(path: Path) -> Iterator[None]:
    """Add RMT_CACHE as the remedy to errors on writing the cache."""
    try:
        with disk_errors_as_rmt_error(path):
            yield
    except RMTError as error:
        if isinstance(error.__cause__, OSError):
            raise RMTError(f"{error}, or set {VARIABLE} to a folder elsewhere") from error
        raise
