"""What a run learned from: the classes, and name, size and label of every image, so that changed data are noticed.

The record of a run is a compressed file with a line per image. It is written and compared line by line, in memory that
does not depend on the number of images; only where data differ, 24 bytes per image and side name the differences. What
is read of an image is its size on disk, not its content.
"""

import gzip
import hashlib
import io
import json
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from rmt.atomic import replace_file
from rmt.data.files import require_regular
from rmt.data.sets import HoldOut, preview
from rmt.errors import RMTError
from rmt.terminal import plural

FORMAT = 1
_MAX_HEADER, _MAX_LINE = 2**26, 2**16  # characters
_NAMED = 3
"""Images of each kind of difference that are named."""

S = TypeVar("S")
Line = tuple[str, str, str]  # split, name of the image, and what must stay the same of it


def image_facts(image_set: Any, index: int) -> tuple[str, str]:
    """(name relative to the folder of the set, sizes and label) of an image. A set without `facts` has names alone."""
    if not hasattr(image_set, "facts"):
        return (image_set.name(index) if hasattr(image_set, "name") else str(index)), ""
    name, size = image_set.facts(index)
    labels = getattr(image_set, "labels", None)
    return name, size if labels is None else f"{size} {image_set.classes[labels[index]]}"


def digest(image_set: Any) -> str:
    """Hash of the names, sizes and labels of a set of images, in their order; independent of where the set lies."""
    found = hashlib.sha256()
    for index in range(len(image_set)):
        found.update(json.dumps(image_facts(image_set, index)).encode())
    return found.hexdigest()[:32]


def write_record(path: Path, classes: Iterable[str], splits: Mapping[str, Any]) -> dict[str, str]:
    """Write the record of the image sets of each split; returns the `digest` of each."""
    found = {split: hashlib.sha256() for split in splits}
    with (
        replace_file(path) as draft,
        gzip.GzipFile(draft, "wb", compresslevel=3, mtime=0) as packed,
        io.TextIOWrapper(packed, encoding="ascii") as file,
    ):
        file.write(json.dumps({"format": FORMAT, "classes": list(classes)}) + "\n")
        for split, name, mark in _lines(splits):
            found[split].update(json.dumps((name, mark)).encode())
            file.write(json.dumps((split, name, mark)) + "\n")
    return {split: value.hexdigest()[:32] for split, value in found.items()}


def differences(path: Path, classes: Iterable[str], splits: Mapping[str, Any]) -> list[str]:
    """How data differ from a record, one phrase each, with names; empty if they do not. Raises `RMTError`."""
    before, after = _read_classes(path), list(classes)
    found = _class_differences(before, after)
    same = all(old == new for old, new in zip_longest(_read_lines(path), _lines(splits)))
    return found if same else [*found, *_image_differences(lambda: _read_lines(path), lambda: _lines(splits))]


def require_same_number(path: Path, classes: Iterable[str]) -> None:
    """Raise `RMTError` if the record has another number of classes, which the network's outputs cannot follow."""
    before, after = len(_read_classes(path)), len(list(classes))
    if before != after:
        raise RMTError(
            f"the run has {before} classes and the data have {after}, to which it cannot be resumed: "
            "start a new run, from its weights with --weights"
        )


def recognised(held: HoldOut, divide: Callable[[], S]) -> S | None:
    """The images of `divide()` if they are those that a run held out, by their names, sizes and labels; else None.

    A run that recorded no digests is believed, since its data had the same path.
    """
    if not held.digests:
        return divide()
    try:
        images = divide()
    except RMTError:  # other data cannot always be divided
        return None
    return images if digest(images) in held.digests else None


def _lines(splits: Mapping[str, Any]) -> Iterator[Line]:
    for split, images in splits.items():
        for index in range(len(images)):
            yield (split, *image_facts(images, index))


def _read_lines(path: Path) -> Iterator[Line]:
    with _opened(path) as file:
        _read_line(file, _MAX_HEADER)
        while line := _read_line(file, _MAX_LINE):
            split, name, mark = line
            yield split, name, mark


def _read_classes(path: Path) -> list[str]:
    with _opened(path) as file:
        return [str(name) for name in _read_line(file, _MAX_HEADER)["classes"]]


def _read_line(file: IO[str], most: int) -> Any:
    """The JSON value of the next line; None at the end."""
    line = file.readline(most)
    if line and not line.endswith("\n"):
        raise ValueError("a line that is too long or not complete")
    return json.loads(line) if line else None


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """A record, opened for reading. Whatever is wrong with it becomes an `RMTError`."""
    try:
        require_regular(path)
        with gzip.open(path, "rt", encoding="ascii") as file:
            yield file
    except (OSError, EOFError, ValueError, LookupError, TypeError, RecursionError, zlib.error):
        raise RMTError(f"{path}: not a complete record of the data; delete it to resume without it") from None


def _class_differences(before: list[str], after: list[str]) -> list[str]:
    gone, new = [n for n in before if n not in set(after)], [n for n in after if n not in set(before)]
    found = []
    if len(gone) == len(new) == 1:
        found.append(f"class {gone[0]} is called {new[0]} now")
    elif gone or new:
        kinds = (("gone", gone), ("new", new))
        found.append("; ".join(f"classes {kind}: {preview(names)}" for kind, names in kinds if names))
    number = {name: label for label, name in enumerate(after)}
    if moved := [name for label, name in enumerate(before) if number.get(name, label) != label]:
        found.append(f"other numbers for {plural(len(moved), 'class')}: {preview(moved)}")
    return found


@dataclass
class _Hashes:
    """The images of one side as hashes: of split and name, of the name alone, and of what must stay the same."""

    keys: array = field(default_factory=lambda: array("Q"))
    names: array = field(default_factory=lambda: array("Q"))
    marks: array = field(default_factory=lambda: array("Q"))

    @classmethod
    def of(cls, lines: Iterable[Line]) -> "_Hashes":
        found = cls()
        for split, name, mark in lines:
            found.keys.append(_hash(split, name))
            found.names.append(_hash(name))
            found.marks.append(_hash(mark))
        return found

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        keys, names, marks = (np.frombuffer(part, np.uint64) for part in (self.keys, self.names, self.marks))
        return keys, names, marks


def _hash(*texts: str) -> int:
    text = "\0".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _image_differences(old: Callable[[], Iterable[Line]], new: Callable[[], Iterable[Line]]) -> list[str]:
    (old_keys, old_names, old_marks), (keys, names, marks) = (_Hashes.of(side()).arrays() for side in (old, new))
    gone, added = ~np.isin(old_keys, keys), ~np.isin(keys, old_keys)
    moved = added & np.isin(names, old_names[gone])
    gone &= ~np.isin(old_names, names[moved])
    added &= ~moved
    _, first, second = np.intersect1d(old_keys, keys, return_indices=True)
    changed = np.zeros(len(keys), dtype=bool)
    changed[second[old_marks[first] != marks[second]]] = True
    found = [
        _phrase("gone", gone, old),
        _phrase("new", added, new),
        _phrase("with another size or label", changed, new),
        _phrase("in another split", moved, new),
    ]
    return [line for line in found if line] or ["the order of the images"]


def _phrase(what: str, chosen: np.ndarray, lines: Callable[[], Iterable[Line]]) -> str:
    positions = np.flatnonzero(chosen)
    if not len(positions):
        return ""
    wanted, last = set(positions[:_NAMED].tolist()), int(positions[:_NAMED][-1])
    named = []
    for index, (_, name, _) in enumerate(lines()):
        if index in wanted:
            named.append(name)
        if index == last:
            break
    more = len(positions) - len(named)
    return f"{plural(len(positions), 'image')} {what}: {', '.join(named)}" + (f" and {more:,} more" if more else "")
