"""Images with masks: ADE20K as downloaded, or any folder of images and masks with a class list."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rmt.data.files import size_on_disk, walk
from rmt.data.fingerprint import recognised
from rmt.data.images import EXTENSIONS, read_image
from rmt.data.segmentation.layouts import SegmentationLayout, segmentation_layout
from rmt.data.segmentation.masks import IGNORE, ClassList, read_mask
from rmt.data.sets import EvaluationSplit, HoldOut, Splits, class_indices, hold_out_mask
from rmt.data.split_names import NAMES, Split
from rmt.errors import RMTError

MASK_ENDINGS = ("_L", "_mask", "_masks", "_label", "_labels", "_seg", "_labelIds", "_gtFine_labelIds")
"""What may follow the name of an image in that of its mask."""


@dataclass(frozen=True)
class Pair:
    """An image and its mask, of the same size."""

    image: Image.Image  # upright 8-bit RGB
    mask: np.ndarray  # uint8 (height, width); 255 is ignored


@dataclass(frozen=True)
class SegmentationSet:
    """Pairs of images and masks, sorted by name, with random access; see `open_segmentation`."""

    classes: ClassList
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    skipped: dict[str, int]  # files skipped when the set was opened, by reason
    folder: Path = Path()  # of the images
    labels: np.ndarray | None = None  # int64 (classes of the files + 1,): the label of each; None: the same

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(self.images[index])

    def facts(self, index: int) -> tuple[str, str]:
        """The name of the image relative to `folder`, and the sizes of image and mask on disk."""
        image, mask = self.images[index], self.masks[index]
        return os.path.relpath(image, self.folder), f"{size_on_disk(image)} {size_on_disk(mask)}"

    def load(self, index: int) -> Pair:
        """Pair number `index`. Raises `BadImage` that names the file if one of the two cannot be used."""
        image = read_image(self.images[index])
        return Pair(image, self.load_mask(index, image.size))

    def load_mask(self, index: int, size: tuple[int, int] | None = None) -> np.ndarray:
        """Mask number `index`, uint8 (height, width), whose size must be `size` (width, height), if given."""
        mask = read_mask(self.masks[index], self.classes, size)
        if self.labels is not None:
            mask = self.labels[np.minimum(mask, len(self.classes.names))].astype(np.uint8)
        return mask

    def subset(self, indices: Sequence[int] | np.ndarray) -> "SegmentationSet":
        """The pairs at `indices`, in that order."""
        return replace(self, images=tuple(self.images[i] for i in indices), masks=tuple(self.masks[i] for i in indices))

    def with_classes(self, names: Sequence[str]) -> "SegmentationSet":
        """The set with labels that refer to `names`, matched by name. Raises `RMTError` that names unknown ones."""
        if tuple(names) == self.classes.names:
            return self
        return replace(self, labels=np.append(class_indices(self.classes.names, names), IGNORE))


def open_segmentation(
    data: str, classes: str = "", *, zero_is_ignored: bool = False, holdout: float = 0.0, seed: int = 0
) -> Splits[SegmentationSet]:
    """Open the training and the validation pairs of a folder.

    Args:
        data: a folder with `images/{training,validation}` and `annotations/{training,validation}` (ADE20K as
            downloaded; `train`, `val` and `masks`, `labels` are understood too), with `images` and `masks` alone, or
            with `train` and `trainannot` (see `layouts`).
        classes: the class list, see `ClassList.read`; without it `classes.txt` or `objectInfo150.txt` of the folder.
        zero_is_ignored: see `ClassList`; `objectInfo150.txt` says so itself.
        holdout: fraction of the pairs that is held out for validation if there is no validation split.
        seed: of the random choice of these.
    Raises:
        RMTError: no such folder, no pair, no class list.
    """
    layout = segmentation_layout(data, classes, zero_is_ignored=zero_is_ignored)
    if "train" not in layout.splits:
        there = ", ".join(str(images) for images, _ in layout.splits.values())
        raise RMTError(f"{data}: no folder for train beside {there}; expected one of {', '.join(NAMES['train'])}")
    train = open_pairs(layout, "train")
    if "val" not in layout.splits:
        return Splits(*_hold_out(train, holdout, seed, data), {"train and val": train.skipped})
    val = open_pairs(layout, "val")
    return Splits(train, val, {"train": train.skipped, "val": val.skipped})


def open_segmentation_evaluation(
    data: str,
    classes: str = "",
    *,
    zero_is_ignored: bool = False,
    held: HoldOut | None = None,
    split: Split | None = None,
) -> EvaluationSplit[SegmentationSet]:
    """The pairs that an evaluation uses: those of `split`, or by default the validation split if there is one.

    Otherwise the pairs that a run held out, if `held` says how it divided `data`, or all pairs. Raises `RMTError`.
    """
    layout = segmentation_layout(data, classes, zero_is_ignored=zero_is_ignored)
    if split is not None:
        if split not in layout.splits:
            raise RMTError(f"--split {split}: {data} has {', '.join(layout.splits)} only")
        return EvaluationSplit(open_pairs(layout, split), split)
    if "val" in layout.splits:
        return EvaluationSplit(open_pairs(layout, "val"), "val")
    if "train" not in layout.splits:
        return EvaluationSplit(open_pairs(layout, "test"), "test")
    whole = open_pairs(layout, "train")
    if held:
        found = recognised(held, lambda: _hold_out(whole, held.fraction, held.seed, data)[1])
        if found is not None:
            return EvaluationSplit(found, "held out")
    return EvaluationSplit(whole, "all")


def _hold_out(whole: SegmentationSet, fraction: float, seed: int, data: str) -> tuple[SegmentationSet, SegmentationSet]:
    """(rest, held), both in order. Raises `RMTError` if one of them would be empty."""
    held = hold_out_mask(len(whole), fraction, seed, data, "add a validation split")
    return whole.subset(np.flatnonzero(~held)), whole.subset(np.flatnonzero(held))


def open_pairs(layout: SegmentationLayout, split: Split) -> SegmentationSet:
    """Every image of a split with the mask of the same name, whatever their extensions.

    Masks called `NAME_L`, `NAME_mask` and the like are those of `NAME`. Raises `RMTError` if there is no pair.
    """
    images, masks = layout.splits[split]
    skipped: Counter[str] = Counter()
    image_of, mask_of = _by_stem(images, skipped), _by_stem(masks, skipped)
    if not image_of.keys() & mask_of.keys():
        end = next((end for end in MASK_ENDINGS if any(f"{stem}{end}" in mask_of for stem in image_of)), "")
        mask_of = {stem.removesuffix(end): path for stem, path in mask_of.items()}
    skipped["image without a mask"] += len(image_of.keys() - mask_of.keys())
    skipped["mask without an image"] += len(mask_of.keys() - image_of.keys())
    both = sorted(image_of.keys() & mask_of.keys())
    if not both:
        first = min(image_of, default=None)
        example = f", e.g. {first}.png for {image_of[first].name}" if first is not None else ""
        raise RMTError(f"no image of {images} has a mask of its name in {masks}{example}")
    found = [tuple(paths[stem] for stem in both) for paths in (image_of, mask_of)]
    return SegmentationSet(layout.classes, found[0], found[1], dict(+skipped), images)  # + drops the zeros


def _by_stem(folder: Path, skipped: Counter[str]) -> dict[str, Path]:
    """The image files at any depth of a folder, by their relative path without the extension."""
    found: dict[str, Path] = {}
    for file in sorted(Path(here, name) for here, _, names in walk(folder) for name in names):
        if file.name.startswith("."):
            skipped["hidden"] += 1
        elif file.suffix.lower() not in EXTENSIONS:
            skipped["not an image"] += 1
        elif (stem := file.relative_to(folder).with_suffix("").as_posix()) in found:
            skipped["same name as another but for the extension"] += 1
        else:
            found[stem] = file
    return found
