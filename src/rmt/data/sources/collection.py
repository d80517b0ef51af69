"""Images without labels, named by words on a command line: files, folders, patterns, shards, addresses, `-`."""

import glob
import os
import sys
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from rmt.data.files import files_below
from rmt.data.images import EXTENSIONS, MAX_BYTES, BadImage, read_image
from rmt.data.sources.remote import RemoteFile, is_url, list_folder, matching, remote_file
from rmt.errors import RMTError

if TYPE_CHECKING:
    from rmt.data.sources.conversion import Shard
    from rmt.data.sources.shards import ShardRows

SHARDS = (".parquet", ".tar")
_ROOM = 16 * 2**30  # bytes on disk for converted shards, or four of the largest
_PATTERN = "*?["
_LONGEST_NAME = 2**16  # bytes of a line of the standard input

Entry = str | RemoteFile | Path
"""The path or the address of an image file; or a shard, whose path is a `Path`."""


class Collection:
    """Images with random access, in the order of the entries; pickled to worker processes.

    Args:
        entries: image files and shards.
    Raises:
        RMTError: a shard is missing or broken, or the cache cannot be written.
    """

    def __init__(self, entries: Sequence[Entry]):
        shards: list[Shard] = [entry for entry in entries if _is_shard(entry)]  # type: ignore[misc]
        self._files = [entry for entry in entries if not _is_shard(entry)]
        self._shards: Any = None  # ShardRows
        sizes = np.ones(len(entries), np.int64)
        if shards:
            from rmt.data.sources.cache import ShardCache  # pyarrow takes a moment to import
            from rmt.data.sources.shards import ShardRows

            largest = max(shard.size if isinstance(shard, RemoteFile) else _size(shard) for shard in shards)
            self._shards = ShardRows(ShardCache(shards, limited=True, room=max(_ROOM, 4 * largest), labelled=False))
            sizes[[_is_shard(entry) for entry in entries]] = np.diff(self._shards.ends, prepend=0)
        # Runs of neighbouring entries of one kind: where each ends, and the first number of its kind.
        kinds = np.array([_is_shard(entry) for entry in entries], bool)
        last = np.flatnonzero(np.append(kinds[1:] != kinds[:-1], True)) if len(entries) else np.empty(0, np.int64)
        ends = np.cumsum(sizes)[last]
        self._ends: list[int] = ends.tolist()
        self._in_shards: list[bool] = kinds[last].tolist()
        lengths = np.diff(ends, prepend=0)
        self._starts = [int(lengths[:i][kinds[last][:i] == kinds[last][i]].sum()) for i in range(len(last))]

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def load(self, index: int) -> Image.Image:
        """Image number `index`, upright 8-bit RGB. Raises `BadImage`."""
        rows, number = self._place(index)
        if rows:
            return rows.load(number)
        file = self._files[number]
        if not isinstance(file, RemoteFile):
            return read_image(file)
        try:
            data = file.read(MAX_BYTES)
        except RMTError as error:
            raise BadImage(file.url, str(error).removeprefix(f"{file.url}: ")) from None
        return read_image(data, file.url)

    def name(self, index: int) -> str:
        """The path or address of an image file, or SHARD[ROW]."""
        rows, number = self._place(index)
        return rows.name(number) if rows else str(self._files[number])

    def stem(self, index: int) -> str:
        """The name of an image file without folder and extension, or STEM-ROW of a row of a shard."""
        rows, number = self._place(index)
        if not rows:
            return Path(str(self._files[number])).stem
        shard, _, row = rows.name(number).rpartition("[")
        return f"{Path(shard).stem}-{row.removesuffix(']').replace('/', '-')}"

    def prefetch(self, indices: np.ndarray) -> None:
        """Convert the shards of images that are used soon, in the background."""
        if self._shards is not None:
            places = (self._place(index) for index in np.unique(indices).tolist())
            numbers = [number for rows, number in places if rows]
            self._shards.prefetch(np.array(numbers, np.int64))

    def _place(self, index: int) -> "tuple[ShardRows | None, int]":
        """The set of rows, or None for a file, and the number of the image there or among the files."""
        run = bisect_right(self._ends, index)
        number = int(index) - (self._ends[run - 1] if run else 0) + self._starts[run]
        return (self._shards if self._in_shards[run] else None), number


def open_collection(words: Iterable[str | Path]) -> Collection:
    """The images that words name: see `entries_of`. Raises `RMTError` if there are none."""
    entries = [entry for word in words for entry in entries_of(str(word))]
    if not (found := Collection(entries)):
        raise RMTError("no images: name image files, folders, patterns such as 'photos/*.jpg', parquet shards, or -")
    return found


def entries_of(word: str) -> Iterator[Entry]:
    """The image files and shards that one word names.

    - an image file, or a shard (parquet or a WebDataset tar), as a path or an address;
    - a folder, or its address: the images and shards in it, of a local one at any depth, sorted;
    - a pattern with `*`, `**`, `?` or `[…]`, where no file has that name: the images and shards among its matches;
    - `-`: one of these, without patterns, on each line of the standard input.

    A path that does not exist is yielded as it is: reading it says so.

    Raises:
        RMTError: a folder or pattern without images, or an address that cannot be listed.
    """
    if word == "-":
        for line in iter(lambda: sys.stdin.buffer.readline(_LONGEST_NAME), b""):
            if len(line) == _LONGEST_NAME:
                raise RMTError(f"-: the standard input has a line of {_LONGEST_NAME:,} bytes; give a name on each line")
            if name := os.fsdecode(line.rstrip(b"\r\n")):
                yield from _named(name)
        return
    is_pattern = any(character in word for character in _PATTERN)
    if is_url(word) and is_pattern:
        yield from _usable(word, matching(word))
    elif is_pattern and not os.path.lexists(word):
        matches = sorted(glob.glob(os.path.expanduser(word), recursive=True))
        yield from _usable(word, [_local(path) for path in matches if os.path.isfile(path)])
    else:
        yield from _named(word)


def _named(word: str) -> Iterator[Entry]:
    if is_url(word):
        if word.lower().endswith(SHARDS):
            yield remote_file(word)
        elif word.lower().endswith(EXTENSIONS):
            yield RemoteFile(word, 0)
        else:
            yield from _usable(word, list_folder(word), complete=True)
        return
    path = os.path.expanduser(word)
    if os.path.isdir(path):
        names = files_below(Path(path), (*EXTENSIONS, *SHARDS))
        yield from _usable(word, [_local(os.path.join(path, name)) for name in names], complete=True)
    else:
        yield _local(path)


def _usable(word: str, entries: Sequence[Entry], *, complete: bool = False) -> Sequence[Entry]:
    """The images and shards among some entries; with `complete` no shard of a numbered series may be missing."""
    found = [entry for entry in entries if str(entry).lower().endswith((*EXTENSIONS, *SHARDS))]
    if not found:
        raise RMTError(f"{word}: no images and no parquet shards there")
    if complete and any(map(_is_shard, found)):
        from rmt.data.sources.shards import check_complete

        check_complete([entry for entry in found if _is_shard(entry)])  # type: ignore[misc]
    return found


def _local(path: str) -> str | Path:
    return Path(path) if path.lower().endswith(SHARDS) else path


def _is_shard(entry: Entry) -> bool:
    return isinstance(entry, Path) or (isinstance(entry, RemoteFile) and entry.name.lower().endswith(SHARDS))


def _size(shard: Path) -> int:
    try:
        return shard.stat().st_size
    except OSError:
        return 0  # opening it says why
