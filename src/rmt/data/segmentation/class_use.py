"""Which classes the masks of a split show, and whether masks and class list belong together."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from rmt.data.images import BadImage, open_safely
from rmt.data.segmentation.dataset import SegmentationSet
from rmt.data.segmentation.masks import IGNORE, UnlistedLabel
from rmt.data.sets import preview
from rmt.errors import RMTError
from rmt.terminal import plural

MOST = 2000
"""Masks that are read, evenly spread. Of a larger set the others are read only while a class is missing."""
_UNFIT_SHARE = 0.05
"""Share of masks that do not fit the class list above which the list is taken to be wrong; fewer are skipped."""
_VALUES_FROM = 50  # masks from which the values in a message are


@dataclass
class ClassUse:
    """What the masks show that were looked at.

    Attributes:
        total, looked: masks in the set, and how many were looked at.
        pixels: int64 (K,): labelled pixels of each class.
        shown: int64 (K,): masks that show each class.
        unfit: name -> reason, of masks that do not fit the class list.
    """

    total: int
    looked: int
    pixels: np.ndarray
    shown: np.ndarray
    unfit: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, pairs: SegmentationSet, most: int = MOST, *, search: bool = True) -> "ClassUse":
        """Read `most` masks, evenly spread; with `search` more while a class has not been seen."""
        classes = len(pairs.classes.names)
        zeros = np.zeros(classes, dtype=np.int64)
        found = cls(len(pairs), 0, zeros.copy(), zeros.copy())
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), most)).astype(int))
        found._add(pairs, chosen.tolist())
        others = np.setdiff1d(np.arange(len(pairs)), chosen)
        while search and len(others) and not found.shown.all() and not found.unfit:
            found._add(pairs, others[:most].tolist())
            others = others[most:]
        return found

    def _add(self, pairs: SegmentationSet, indices: Sequence[int]) -> None:
        def look(index: int) -> np.ndarray | BadImage:
            try:
                return np.bincount(pairs.load_mask(index).ravel(), minlength=IGNORE + 1)
            except BadImage as error:
                return error

        with ThreadPoolExecutor(2) as pool:  # decoding releases the interpreter
            for counts in pool.map(look, indices):
                self.looked += 1
                if isinstance(counts, UnlistedLabel):
                    self.unfit[counts.name] = counts.reason
                elif not isinstance(counts, BadImage):  # other faults are named when the pair is loaded
                    self.pixels += counts[: len(self.pixels)]
                    self.shown += counts[: len(self.shown)] > 0

    def counts(self, names: Sequence[str]) -> dict[str, int]:
        """The number of masks that show each class."""
        return dict(zip(names, self.shown.tolist(), strict=True))


def check_class_list(pairs: SegmentationSet, use: ClassUse, where: str) -> list[str]:
    """Raise `RMTError`, beginning with `where`, if the masks and the class list do not belong together.

    That is: a single class, masks of values or colours beyond the list, or a class that no mask shows. ADE20K's own
    list may name classes that a part of it lacks. Returns lines about what is passed over.
    """
    names = pairs.classes.names
    if len(names) == 1:
        raise RMTError(
            f"{where}: the class list has one class, {names[0]}, so that every pixel would be {names[0]}: list the "
            "background, too"
        )
    if len(use.unfit) > _UNFIT_SHARE * use.looked:
        name, reason = next(iter(use.unfit.items()))
        raise RMTError(
            f"{where}: the class list does not fit {len(use.unfit):,} of {plural(use.looked, 'mask')}, e.g. "
            f"{name}: {reason}"
        )
    lines = [
        f"the class list does not fit {plural(len(use.unfit), 'mask')}, skipped: {preview(list(use.unfit), 3)}"
    ] * bool(use.unfit)
    absent = [name for name, shown in zip(names, use.shown.tolist(), strict=True) if not shown]
    if not absent:
        return lines
    if pairs.classes.zero_is_ignored:
        return [*lines, f"no training mask shows {preview(absent)}"]
    raise RMTError(f"{where}: no training mask shows {preview(absent)}{_found(pairs, absent)}")


def _found(pairs: SegmentationSet, absent: Sequence[str]) -> str:
    """What the masks have instead of the absent classes, and how to say it in the class list."""
    if pairs.classes.colours:
        colour = next(c for c, label in pairs.classes.colours.items() if pairs.classes.names[label] == absent[0])
        return f", whose colour is {' '.join(map(str, colour))}: correct it in the class list, or remove the class"
    values = raw_values(pairs)
    value = pairs.classes.values[pairs.classes.names.index(absent[0])]
    text = f" (value {value}); the masks have the values {preview([str(v) for v in sorted(values)], 12)}"
    ignored = [v for v in sorted(values) if v in pairs.classes.ignored_values]
    if IGNORE in ignored:
        share = 100 * values[IGNORE] / max(sum(values.values()), 1)
        text += f", of which {IGNORE} ({share:.2g} % of the pixels) is ignored: if it means {absent[0]}, write "
        return text + f"its line in the class list as: {absent[0]} {IGNORE}; else as: void {value}"
    return text + (
        f": give it the value that it has in the masks (a line {absent[0]} VALUE in the class list), or replace its "
        f"line by: void {value} (without a line, the classes after it would have other values)"
    )


def raw_values(pairs: SegmentationSet) -> Counter[int]:
    """The values of some masks of indices, and their pixels."""
    found: Counter[int] = Counter()
    for index in np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _VALUES_FROM)).astype(int)).tolist():
        try:
            with open_safely(pairs.masks[index], str(pairs.masks[index])) as image:
                values, counts = np.unique(np.asarray(image), return_counts=True)
        except BadImage:
            continue
        found.update(dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True)))
    return found
