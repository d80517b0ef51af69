"""Read one mask of semantic segmentation: the result is an array of class indices, or a `BadImage` error."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from rmt.data.files import read_text
from rmt.data.images import BadImage, open_safely
from rmt.errors import RMTError
from rmt.terminal import plural

IGNORE = 255
"""The index of pixels that neither the loss nor the metrics count; the same as in heads/segmentation/segmenter.py."""
MAX_CLASSES = 255
_MAX_BYTES, _MAX_LINES = 2**20, 2_000
_IGNORED_NAMES = ("ignore", "void", "unlabelled", "unlabeled")
_TO_INDICES = "; if the values are class indices, remove the colours from the list, or write values instead (NAME 7)"
_INDEX_MODES = ("1", "L", "P", "I", "I;16", "I;16B")

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class ClassList:
    """The classes of a dataset, and how masks encode them.

    Attributes:
        names: class k is `names[k]`.
        colours: for RGB masks, the class (or `IGNORE`) of each colour. Empty for masks of indices.
        zero_is_ignored: value 0 of a mask is ignored and class k is value k + 1, as in ADE20K.
        void: other values of index masks that are ignored.
        given: class -> the value that the list gives it. The other classes have the remaining values, in order.
    """

    names: tuple[str, ...]
    colours: dict[Colour, int]
    zero_is_ignored: bool = False
    void: frozenset[int] = frozenset()
    given: dict[int, int] = field(default_factory=dict)

    @property
    def values(self) -> list[int]:
        """The value of each class in masks of indices."""
        taken = {*self.void, *self.given.values()}
        free = (value for value in count(1 if self.zero_is_ignored else 0) if value not in taken)
        return [self.given[label] if label in self.given else next(free) for label in range(len(self.names))]

    @property
    def ignored_values(self) -> set[int]:
        """The values of masks of indices that are ignored."""
        return {IGNORE, *self.void, *([0] if self.zero_is_ignored else [])} - set(self.given.values())

    @classmethod
    def read(cls, path: Path, zero_is_ignored: bool = False) -> "ClassList":
        """Read a text file with one class per line, or ADE20K's `objectInfo150.txt`.

        A line may end in three numbers 0…255, the colour of the class in RGB masks. With colours, a line named `ignore`
        or `void` gives a colour that is ignored. A line `void 11` says that value 11 of index masks is ignored, and
        `object 255` that the class `object` has the value 255. (Lines such as `class 1`, `class 2`, which only the
        number tells apart, are names.) Empty lines and lines that start with # are skipped. In a file `.csv` commas
        separate name and colour.

        Raises:
            RMTError: the file cannot be read, there is no class or more than 255, a class or colour occurs twice.
        """
        try:
            if path.stat().st_size > _MAX_BYTES:
                raise RMTError(f"{path}: more than {_MAX_BYTES:,} bytes, which no class list needs")
            lines = read_text(path).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise RMTError(f"{path}: the class list cannot be read ({error})") from None
        if len(lines) > _MAX_LINES:
            raise RMTError(f"{path}: {len(lines):,} lines, where 1 to {MAX_CLASSES} classes are possible")
        names: list[str] = []
        colours: dict[Colour, int] = {}
        if lines and lines[0].split()[:2] == ["Idx", "Ratio"]:  # objectInfo150.txt: Idx, Ratio, Train, Val, Stuff, Name
            names = _unique([line.split("\t")[-1].split(",")[0].strip() for line in lines[1:] if line.strip()])
            lines, zero_is_ignored = [], True
        if path.suffix.lower() == ".csv":  # name,r,g,b under a heading
            lines = [" ".join(line.split(",")) for line in lines[1:]]
        void: set[int] = set()
        for line in lines:
            if not line.strip() or line.startswith("#"):
                continue
            if (value := _void_value(line)) is not None:
                void.add(value)
                continue
            if re.match(rf"({'|'.join(_IGNORED_NAMES)})\s*:", line, re.IGNORECASE):
                raise RMTError(
                    f"{path}: {line.strip()[:40]!r} is not a value to ignore: write one line for each, void 11"
                )
            name, colour = _name_and_colour(path, line)
            ignored = colour is not None and name.lower() in _IGNORED_NAMES
            if not ignored:
                names.append(name)
            if colour is not None:
                if colour in colours:
                    raise RMTError(f"{path}: the colour {colour} is given to two classes")
                colours[colour] = IGNORE if ignored else len(names) - 1
        if colours and len(set(colours.values()) - {IGNORE}) < len(names):
            raise RMTError(f"{path}: some classes have a colour and some have none")
        if not 1 <= len(names) <= MAX_CLASSES:
            raise RMTError(f"{path}: {len(names)} classes, where 1 to {MAX_CLASSES} are possible")
        given = {} if colours else _given_values(path, names)
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise RMTError(f"{path}: the class {twice[0]} is listed twice")
        if both := [label for label, value in given.items() if value in void]:
            raise RMTError(f"{path}: the value {given[both[0]]} is both void and that of {names[both[0]]}")
        return cls(tuple(names), colours, zero_is_ignored, frozenset(void), given)


def _given_values(path: Path, names: list[str]) -> dict[int, int]:
    """The values of lines like `object 255` by class; removes them from `names`.

    Names that are not unique without their numbers have no values.
    """
    matches = [re.fullmatch(r"(.*\S)\s*[\s:=]\s*(\d+)", name) for name in names]
    bare = [name if match is None else match[1].rstrip(":= ") for name, match in zip(names, matches, strict=True)]
    if len(set(bare)) < len(bare) or not all(bare):
        return {}
    if large := [match[2] for match in matches if match is not None and len(match[2].lstrip("0")) > 5]:
        raise RMTError(f"{path}: {large[0][:20]} is not the value of a class in masks, which have at most 16 bits")
    given = {label: int(match[2]) for label, match in enumerate(matches) if match is not None}
    if twice := [value for value in given.values() if list(given.values()).count(value) > 1]:
        raise RMTError(f"{path}: the value {twice[0]} is given to two classes")
    names[:] = bare
    return given


def _unique(names: list[str]) -> list[str]:
    """The names, with (2), (3), … appended to repeated ones: the first words of ADE20K's classes are not unique."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return [name if count == 1 else f"{name} ({count})" for name, count in zip(names, counts, strict=True)]


def _void_value(line: str) -> int | None:
    """The value in a line like `void 11` or `ignore: 11`; None for other lines."""
    words = line.replace(":", " ").split()
    is_void = len(words) == 2 and words[0].lower() in _IGNORED_NAMES and words[1].isdecimal() and len(words[1]) < 10
    return int(words[1]) if is_void else None


def _name_and_colour(path: Path, line: str) -> tuple[str, Colour | None]:
    words = line.split()
    last = words[-3:]
    if len(words) < 4 or not all(word.isdecimal() and len(word) < 10 for word in last):
        return line.strip(), None
    red, green, blue = (int(word) for word in last)
    if max(red, green, blue) > 255:
        raise RMTError(f"{path}: {' '.join(last)} is not a colour: its parts must lie in 0…255")
    return " ".join(words[:-3]), (red, green, blue)


class UnlistedLabel(BadImage):
    """A mask that does not fit the class list: it has a value or colour of no class, or is of the other kind."""


def read_mask(path: Path, classes: ClassList, size: tuple[int, int] | None) -> np.ndarray:
    """Read the class of each pixel, uint8 (height, width); `IGNORE` where there is none.

    Args:
        path: an image of indices (grey, or with a palette, whose colours are ignored), or of colours if the class list
            has colours.
        classes: the class list.
        size: (width, height) of the image that the mask belongs to; None: not checked.
    Raises:
        BadImage: the mask is unreadable or of another size, or has only ignored pixels.
        UnlistedLabel: it has a value or colour that is not in the class list, or is a mask of indices where colours are
            expected, or the other way round.
    """
    name = str(path)
    with open_safely(path, name) as image:
        if size is not None and image.size != size:
            raise BadImage(name, f"the mask has {_size_text(image.size)} pixels, its image {_size_text(size)}")
        if image.format == "JPEG":
            raise BadImage(name, "a JPEG mask, whose values compression has changed; save masks as PNG")
        if classes.colours:
            grey = image.mode in _INDEX_MODES and image.mode != "P"
            if image.mode.startswith("I"):
                raise UnlistedLabel(name, "a mask of 16-bit values, and the class list has colours" + _TO_INDICES)
            labels = _by_colour(np.asarray(image.convert("RGB")), classes.colours, name, grey)
        elif image.mode in _INDEX_MODES:
            labels = _by_index(np.asarray(image), classes, name)
        else:
            raise UnlistedLabel(
                name,
                f"an {image.mode} mask where class indices are expected; give each class its colour in the class list "
                "(NAME R G B), or save the mask as indices",
            )
    if (labels == IGNORE).all():
        raise BadImage(name, "every pixel of the mask is ignored")
    return labels


def _by_index(values: np.ndarray, classes: ClassList, name: str) -> np.ndarray:
    if values.dtype == bool:
        values = values.astype(np.uint8)
    small = values.dtype == np.uint8
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256)) if small else np.unique(values)
    label_of = {value: label for label, value in enumerate(classes.values)}
    ignored = classes.ignored_values
    labels = [IGNORE if value in ignored else label_of.get(value, -1) for value in found.tolist()]
    if -1 in labels:
        row, column = np.argwhere(values == found[labels.index(-1)])[0].tolist()
        value, last = int(values[row, column]), classes.names[-1]
        raise UnlistedLabel(
            name,
            f"value {value} at column {column}, row {row} is beyond the class list, which has "
            f"{plural(len(classes.names), 'class')} ({min(label_of)}…{max(label_of)}); to ignore it, add a line "
            f"to the list: void {value}; if it is the value of {last}, write its line as: {last} {value}",
        )
    if not small:
        return np.array(labels, dtype=np.uint8)[np.searchsorted(found, values)]
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[found] = labels
    return table[values]


def _by_colour(values: np.ndarray, colours: dict[Colour, int], name: str, grey: bool = False) -> np.ndarray:
    code = (values.astype(np.int32) * np.array([1 << 16, 1 << 8, 1], dtype=np.int32)).sum(2)
    found, inverse = np.unique(code, return_inverse=True)
    table = {(red << 16) | (green << 8) | blue: label for (red, green, blue), label in colours.items()}
    labels = np.array([table.get(int(value), -1) for value in found])
    if (labels < 0).any():
        value = int(found[labels < 0][0])
        row, column = np.argwhere(code == value)[0].tolist()
        colour = (value >> 16, value >> 8 & 255, value & 255)
        where = f"at column {column}, row {row} belongs to no class of the class list"
        if grey:
            raise UnlistedLabel(name, f"a grey mask whose value {colour[0]} {where}, which has colours" + _TO_INDICES)
        raise UnlistedLabel(name, f"the colour {colour} {where}")
    return labels[inverse].reshape(code.shape).astype(np.uint8)


def _size_text(size: Sequence[int]) -> str:
    return f"{size[0]:,}×{size[1]:,}"
