"""Whether shards fit the disk: mapped copies of all of them, or a stream through a bounded cache."""

import hashlib
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rmt.cache import cache_folder
from rmt.data.sources.remote import RemoteFile
from rmt.errors import RMTError

BUFFER = 50_000
"""Images among which the order is random when shards are streamed."""

_SPARE = 1.1  # of the disk space needed


@dataclass(frozen=True)
class Reading:
    """How shards are read: `stream` is "yes", "no", or "auto" for whatever the disk allows."""

    stream: str = "auto"
    buffer: int = BUFFER

    def __post_init__(self) -> None:
        if self.stream not in ("auto", "yes", "no"):
            raise RMTError(f"--stream must be auto, yes or no, not {self.stream!r}")

    def streams(self, shards: Sequence[Path | RemoteFile]) -> bool:
        """Whether these shards are streamed. What the cache holds already counts as free: it may be these very data."""
        if self.stream != "auto":
            return self.stream == "yes"
        needed = sum(_bytes_needed(shard) for shard in shards)
        folder = cache_folder()
        free = shutil.disk_usage(folder).free
        if needed * _SPARE <= free:
            return False
        return needed * _SPARE > free + _size_of(folder)


def fetch_all(shards: tuple[Path, ...] | tuple[RemoteFile, ...]) -> tuple[Path, ...]:
    """The shards as files here; those at an address are downloaded into the cache once."""
    with ThreadPoolExecutor(4) as pool:
        return tuple(pool.map(_fetch, shards))


def _fetch(shard: Path | RemoteFile) -> Path:
    from filelock import FileLock  # comes with torch

    if isinstance(shard, Path):
        return shard
    place = hashlib.sha256(shard.address.rpartition("/")[0].encode()).hexdigest()[:20]
    path = cache_folder() / "downloads" / place / shard.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(path) + ".lock"):
        if not (path.exists() and shard.size in (0, path.stat().st_size)):
            draft = path.with_name(f".{shard.name}.draft")
            try:
                shard.fetch(draft)
                draft.replace(path)
            finally:
                draft.unlink(missing_ok=True)
    return path


def _bytes_needed(shard: Path | RemoteFile) -> int:
    """On this disk: the mapped copy, and for a remote shard the download too."""
    return shard.stat().st_size if isinstance(shard, Path) else 2 * shard.size


def _size_of(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            total += file.lstat().st_size
    return total
