"""What a set of labelled images is, its two splits, parts of it, and the stratified hold-out."""

import math
from collections.abc import Mapping, Sequence
from typing import Generic, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
from PIL import Image

from rmt.data.randomness import HOLD_OUT, permutation
from rmt.errors import RMTError

S = TypeVar("S")

SkipReport = Mapping[str, Mapping[str, int]]
"""How many files or objects were passed over when the data were opened: source ("train", "val", or "train and val" for
one source divided) to reason to count. Every source is there once, so that sums over them are right."""


class Splits(NamedTuple, Generic[S]):
    """What there is to learn from and to judge on, opened once."""

    train: S
    val: S
    skipped: SkipReport


class HoldOut(NamedTuple):
    """How data without a validation split were divided: the held-out fraction, and the seed it was drawn from."""

    fraction: float
    seed: int


Part = Literal["val", "held out", "listed", "train", "all"]
"""Which images an evaluation scores: the validation split, those a run held out, those of a file that lists them, the
very ones learned from, or all, for want of knowing."""


class EvaluationSplit(NamedTuple, Generic[S]):
    """The images an evaluation scores, and which part of the data they are."""

    images: S
    part: Part


def skip_lines(skipped: SkipReport) -> list[str]:
    """The report in words, a line per source that has something to say."""
    return [
        f"passed over in {source}: {', '.join(f'{count:,} × {reason}' for reason, count in reasons.items())}"
        for source, reasons in skipped.items()
        if reasons
    ]


class ImageSet(Protocol):
    """Labelled images with random access, in an order that depends on nothing but the data."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names; label k is `classes[k]`."""

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, without opening an image."""

    def __len__(self) -> int: ...

    def load(self, index: int) -> Image.Image:
        """Image number `index`, upright 8-bit RGB. Raises `BadImage`."""

    def name(self, index: int) -> str:
        """What to call image number `index` in a message."""


class Subset:
    """Some images of another set, in the order of `indices`."""

    def __init__(self, parent: ImageSet, indices: np.ndarray):
        self.parent = parent
        self.indices = indices
        self.labels = parent.labels[indices]

    @property
    def classes(self) -> tuple[str, ...]:
        return self.parent.classes

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Image.Image:
        return self.parent.load(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.parent.name(int(self.indices[index]))


class Relabelled:
    """The same images under another list of classes; see `with_classes`."""

    def __init__(self, parent: ImageSet, classes: tuple[str, ...], labels: np.ndarray):
        self.parent = parent
        self.classes = classes
        self.labels = labels

    def __len__(self) -> int:
        return len(self.parent)

    def load(self, index: int) -> Image.Image:
        return self.parent.load(index)

    def name(self, index: int) -> str:
        return self.parent.name(index)


def subset(image_set: ImageSet, indices: Sequence[int] | np.ndarray) -> Subset:
    """The images at `indices`, in that order. Raises IndexError beyond either end."""
    chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
    if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(image_set)):
        raise IndexError(f"indices must lie in 0…{len(image_set) - 1}")
    return Subset(image_set, chosen)


def with_classes(image_set: ImageSet, classes: Sequence[str]) -> ImageSet:
    """The set with labels that count in `classes`, such as those of a checkpoint; matched by name.

    Raises `RMTError` that names the classes of the set which `classes` does not have.
    """
    if tuple(classes) == image_set.classes:
        return image_set
    place = {name: label for label, name in enumerate(classes)}
    unknown = [name for name in image_set.classes if name not in place]
    if unknown:
        raise RMTError(f"the data have classes that the model does not know: {preview(unknown)}")
    new_label = np.array([place[name] for name in image_set.classes], dtype=np.int64)
    return Relabelled(image_set, tuple(classes), new_label[image_set.labels])


def hold_out(image_set: ImageSet, amount: int | float, seed: int) -> tuple[Subset, Subset]:
    """Split into (rest, held): `held` has `amount` images (an integer) or that fraction of them (a float).

    Stratified: each class gives its share, rounded so that the total is exact; but every class keeps at least one
    image in the rest. Both parts keep the set's order. The same set, amount and seed always give the same split.
    Raises `RMTError` when nothing would be held or the rest would lose a class.
    """
    total = len(image_set)
    if isinstance(amount, float):
        if not 0 < amount < 1:
            raise RMTError(f"a held-out fraction must lie between 0 and 1, not {amount}")
        count = round(amount * total)
    else:
        count = amount
    sizes = np.bincount(image_set.labels, minlength=len(image_set.classes))
    most = int(np.maximum(sizes - 1, 0).sum())
    if not 1 <= count <= most:
        raise RMTError(
            f"cannot hold out {count:,} of {total:,} images: at least 1, at most {most:,} since each class keeps one"
        )
    held = []
    for label, quota in enumerate(_quotas(sizes, count, seed)):
        members = np.flatnonzero(image_set.labels == label)
        held.append(members[permutation(len(members), HOLD_OUT, seed, label)[:quota]])
    mask = np.zeros(total, dtype=bool)
    mask[np.concatenate(held)] = True
    return subset(image_set, np.flatnonzero(~mask)), subset(image_set, np.flatnonzero(mask))


def _quotas(sizes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Shares of `count` in proportion to `sizes`, at most size − 1 each, that sum to `count` (largest remainders)."""
    room = np.maximum(sizes - 1, 0)
    exact = count * sizes / sizes.sum()
    quotas = np.minimum(np.floor(exact).astype(np.int64), room)
    tie_break = permutation(len(sizes), HOLD_OUT, seed)
    while (missing := count - int(quotas.sum())) > 0:
        # one each to the classes that are furthest below their share and still have room
        gap = np.where(quotas < room, exact - quotas, -math.inf)
        first = np.lexsort((tie_break, -gap))[: min(missing, int((quotas < room).sum()))]
        quotas[first] += 1
    return quotas


def preview(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
