"""The interface of a set of labelled images, its splits, subsets of it, and the stratified hold-out."""

import math
from collections.abc import Mapping, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from rmt.data.randomness import HOLD_OUT, permutation
from rmt.errors import RMTError
from rmt.terminal import plural, short

FEW_FROM_SCRATCH = 200
"""Images of a class, in the median, below which a classifier should start from trained weights."""
_MOST_LETTERS = 40  # of a name in a list
_LONGEST_SHOWN = 200  # letters of a name in a message, which may be a path
S = TypeVar("S")

SkipReport = Mapping[str, Mapping[str, int]]
"""Number of files or objects that were skipped when the data were opened, by source and reason. The sources are "train"
and "val", or "train and val" if one source was divided, so that the sum over them is right."""


class Splits(NamedTuple, Generic[S]):
    """The training and the validation data, each opened once."""

    train: S
    val: S
    skipped: SkipReport


class HoldOut(NamedTuple):
    """How data without a validation split were divided: the held-out fraction and the seed."""

    fraction: float
    seed: int
    digests: tuple[str, ...] = ()
    """Of the validation and test images of the run (`rmt.data.fingerprint.digest`), if it recorded them."""


EvaluatedPart = Literal["val", "test", "held out", "listed", "train", "all"]
"""Which images an evaluation uses: the validation or test split, those that the training run held out, those that an
annotation file lists, the training images, or all images because it is not known which were held out."""


class EvaluationSplit(NamedTuple, Generic[S]):
    """The images that an evaluation uses, and which part of the data they are."""

    images: S
    part: EvaluatedPart


def skip_lines(skipped: SkipReport) -> list[str]:
    """The report as text, one line per source that skipped something."""
    return [
        f"skipped in {source}: {', '.join(f'{count:,} × {reason}' for reason, count in reasons.items())}"
        for source, reasons in skipped.items()
        if reasons
    ]


class ImageSet(Protocol):
    """Labelled images with random access, in an order that depends only on the data; pickled to worker processes."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; label k is `classes[k]`."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, available without reading an image."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """Image number `index`, upright 8-bit RGB. Raises `BadImage`."""

    def source(self, index: int) -> bytes | Image.Image:
        """What image number `index` is decoded from: the bytes of its file; or the image itself, if that is at hand.

        Raises `BadImage` if it cannot be read."""

    def name(self, index: int) -> str:
        """What messages call image number `index`."""

    def facts(self, index: int) -> tuple[str, str]:
        """The name of image number `index` relative to the folder of the set, and its size on disk; see `fingerprint`.

        Nothing of the image is read."""


class Subset:
    """The images of `parent` at `indices`, in that order. Raises IndexError for indices that are out of range."""

    def __init__(self, parent: ImageSet, indices: Sequence[int] | np.ndarray):
        self.parent = parent
        self.indices: np.ndarray = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(self.indices) and not (self.indices.min() >= 0 and self.indices.max() < len(parent)):
            raise IndexError(f"indices must lie in 0…{len(parent) - 1}")
        self.classes: tuple[str, ...] = parent.classes
        self.labels: np.ndarray = parent.labels[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Image.Image:
        return self.parent.load(int(self.indices[index]))

    def source(self, index: int) -> bytes | Image.Image:
        return self.parent.source(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.parent.name(int(self.indices[index]))

    def facts(self, index: int) -> tuple[str, str]:
        return self.parent.facts(int(self.indices[index]))


def evenly_spread(total: int, most: int | None) -> np.ndarray:
    """int64: numbers of at most `most` of `total` images, evenly spread, in order; of all if `most` is None.

    Raises `RMTError` unless `most` is at least 1.
    """
    if most is None:
        return np.arange(total)
    if most < 1:
        raise RMTError(f"--max-images must be at least 1, not {most}")
    return np.unique(np.linspace(0, total - 1, min(total, most)).astype(np.int64))


def with_classes(image_set: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The set with labels that refer to `classes`, such as those of a checkpoint; matched by name.

    Raises `RMTError` that names the classes of the set that `classes` lacks.
    """
    if tuple(classes) == image_set.classes:
        return image_set
    relabelled = Subset(image_set, np.arange(len(image_set)))
    relabelled.labels = class_indices(image_set.classes, classes)[image_set.labels]
    relabelled.classes = tuple(classes)
    return relabelled


def class_indices(names: Sequence[str], classes: Sequence[str], what: str = "the data have") -> np.ndarray:
    """int64 (len(names),): the label of each name in `classes`. Raises `RMTError`, beginning with `what`."""
    label_of = {name: label for label, name in enumerate(classes)}
    if unknown := [name for name in names if name not in label_of]:
        raise RMTError(f"{what} classes that the model does not know: {preview(unknown)}")
    return np.array([label_of[name] for name in names], dtype=np.int64)


def hold_out(image_set: ImageSet, amount: int | float, seed: int) -> tuple[Subset, Subset]:
    """Divide into (rest, held): `held` has `amount` images (an integer) or that fraction of them (a float).

    Stratified: each class contributes its share, rounded so that the total is exact, but keeps at least one image in
    the rest. Both parts keep the order of the set. The result is a function of set, amount and seed.

    Raises:
        RMTError: nothing would be held out, or the rest would lose a class.
    """
    total = len(image_set)
    if isinstance(amount, float):
        if not 0 < amount < 1:
            raise RMTError(f"--holdout: a held-out fraction must lie between 0 and 1, not {amount}")
        count = round(amount * total)
    else:
        count = amount
    sizes = np.bincount(image_set.labels, minlength=len(image_set.classes))
    most = int(np.maximum(sizes - 1, 0).sum())
    if not 1 <= count <= most:
        raise RMTError(
            f"cannot hold out {count:,} of {plural(total, 'image')}: at least 1, at most {most:,} since each class "
            "keeps one; choose another --holdout or --selection"
        )
    held = []
    for label, quota in enumerate(_quotas(sizes, count, seed)):
        members = np.flatnonzero(image_set.labels == label)
        held.append(members[permutation(len(members), HOLD_OUT, seed, label)[:quota]])
    mask = np.zeros(total, dtype=bool)
    mask[np.concatenate(held)] = True
    return Subset(image_set, np.flatnonzero(~mask)), Subset(image_set, np.flatnonzero(mask))


def hold_out_mask(total: int, fraction: float, seed: int, where: str, remedy: str) -> np.ndarray:
    """bool (total,): True for a random `fraction`, which is held out; not stratified.

    Raises `RMTError`, beginning with `where`, if one of the two parts would be empty.
    """
    count = round(fraction * total)
    if not 1 <= count < total:
        what = f"cannot hold out {fraction:g} of {plural(total, 'image')} for validation"
        raise RMTError(f"{where}: {what}: choose another --holdout, or {remedy}")
    held = np.zeros(total, dtype=bool)
    held[permutation(total, HOLD_OUT, seed)[:count]] = True
    return held


def _quotas(sizes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Shares of `count` in proportion to `sizes`, at most size − 1 each, by the method of largest remainders."""
    room = np.maximum(sizes - 1, 0)
    exact = count * sizes / sizes.sum()
    quotas = np.minimum(np.floor(exact).astype(np.int64), room)
    tie_break = permutation(len(sizes), HOLD_OUT, seed)
    while (missing := count - int(quotas.sum())) > 0:
        # one more for each of the classes that are furthest below their share and have images left
        gap = np.where(quotas < room, exact - quotas, -math.inf)
        first = np.lexsort((tie_break, -gap))[: min(missing, int((quotas < room).sum()))]
        quotas[first] += 1
    return quotas


def preview(names: Sequence[str], most: int = 5) -> str:
    """The first `most` names, long ones cut, and how many more there are."""
    more = len(names) - most
    return ", ".join(short(name, _LONGEST_SHOWN) for name in names[:most]) + (f" and {more:,} more" if more > 0 else "")


def split_line(split: str, images: int, counts: Mapping[str, int], what: str = "images per class") -> str:
    """What a split consists of, for the start of a run: "val: 30 images; images per class: ant 10, bee 20"."""
    return f"{split}: {plural(images, 'image')}" + (f"; {what}: {listed(counts)}" if counts else "")


def listed(counts: Mapping[str, int], first: int = 6, last: int = 2) -> str:
    """Names with their counts, the first and last few of many: "ant 12, bee 3, … (40 in all)"."""
    entries = [f"{short(name, _MOST_LETTERS)} {count:,}" for name, count in counts.items()]
    if len(entries) <= first + last + 1:
        return ", ".join(entries)
    return ", ".join([*entries[:first], "…", *entries[-last:]]) + f" ({len(entries):,} in all)"
