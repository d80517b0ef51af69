"""Images with a mask each: ADE20K as downloaded, or any folder of images and masks with a class list."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rmt.data.images import EXTENSIONS, read_image
from rmt.data.randomness import HOLD_OUT, permutation
from rmt.data.segmentation.masks import IGNORE, ClassList, read_mask
from rmt.data.sets import EvaluationSplit, HoldOut, Splits, preview
from rmt.data.splits import NAMES, Split
from rmt.errors import RMTError

IMAGES = ("images", "img", "imgs")
MASKS = ("annotations", "masks", "labels", "mask")
CLASS_LISTS = ("classes.txt", "objectInfo150.txt")


@dataclass(frozen=True)
class Pair:
    """An image and its mask, of one size."""

    image: Image.Image  # upright 8-bit RGB
    mask: np.ndarray  # uint8 (height, width); 255 is ignored


@dataclass(frozen=True)
class SegmentationSet:
    """Pairs of images and masks in the order of their names, with random access; see `open_segmentation`."""

    classes: ClassList
    images: tuple[Path, ...]
    masks: tuple[Path, ...]
    skipped: dict[str, int]  # files passed over when the set was opened, by reason
    labels: np.ndarray | None = None  # int64 (classes of the files + 1,): our label of each of theirs; None: the same

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(self.images[index])

    def load(self, index: int) -> Pair:
        """Pair number `index`. Raises `BadImage`, which names the file, for whatever is wrong with either."""
        image = read_image(self.images[index])
        mask = read_mask(self.masks[index], self.classes, image.size)
        if self.labels is not None:
            mask = self.labels[np.minimum(mask, len(self.classes.names))].astype(np.uint8)
        return Pair(image, mask)

    def subset(self, indices: Sequence[int]) -> "SegmentationSet":
        """The pairs at `indices`, in that order."""
        return replace(self, images=tuple(self.images[i] for i in indices), masks=tuple(self.masks[i] for i in indices))

    def with_classes(self, names: Sequence[str]) -> "SegmentationSet":
        """The set with labels that count in `names`, matched by name. Raises `RMTError` naming unknown ones."""
        if tuple(names) == self.classes.names:
            return self
        unknown = [name for name in self.classes.names if name not in names]
        if unknown:
            raise RMTError(f"the data have classes that the model does not know: {preview(unknown)}")
        return replace(self, labels=np.array([*(names.index(name) for name in self.classes.names), IGNORE]))


def open_segmentation(
    data: str, classes: str = "", *, zero_is_ignored: bool = False, holdout: float = 0.0, seed: int = 0
) -> Splits[SegmentationSet]:
    """The training and the validation pairs of a folder.

    Args:
        data: a folder with `images/{training,validation}` and `annotations/{training,validation}` (ADE20K as
            downloaded; `train`, `val` and `masks`, `labels` are understood too), or with `images` and `masks` alone.
        classes: the class list, see `ClassList.read`; without it `classes.txt` or `objectInfo150.txt` of the folder.
        zero_is_ignored: see `ClassList`; `objectInfo150.txt` says so itself.
        holdout: the part of the pairs that is kept for validation where there are no splits.
        seed: of that division.
    Raises:
        RMTError: no such folder, no pair, no class list.
    """
    root = _folder(data)
    listing = _class_list(root, classes, zero_is_ignored)
    images, masks = _side(root, IMAGES, "images"), _side(root, MASKS, "masks")
    learn, judge = (_split_folders(images, masks, split) for split in ("train", "val"))
    if learn and judge:
        train, val = _pairs(*learn, listing), _pairs(*judge, listing)
        return Splits(train, val, {"train": train.skipped, "val": val.skipped})
    if learn or judge:
        missing = "val" if learn else "train"
        raise RMTError(f"{images}: no folder for {missing}; expected one of {', '.join(NAMES[missing])}")
    everything = _pairs(images, masks, listing)
    rest, held = _hold_out(everything, holdout, seed, data)
    return Splits(rest, held, {"train and val": everything.skipped})


def open_segmentation_evaluation(
    data: str, classes: str = "", *, zero_is_ignored: bool = False, held: HoldOut | None = None
) -> EvaluationSplit[SegmentationSet]:
    """What an evaluation should score: the validation split where there is one.

    Else the pairs that a run held out, if `held` says how it divided `data`; else every pair. Raises `RMTError`.
    """
    root = _folder(data)
    listing = _class_list(root, classes, zero_is_ignored)
    images, masks = _side(root, IMAGES, "images"), _side(root, MASKS, "masks")
    if judge := _split_folders(images, masks, "val"):
        return EvaluationSplit(_pairs(*judge, listing), "val")
    everything = _pairs(images, masks, listing)
    if held:
        return EvaluationSplit(_hold_out(everything, held.fraction, held.seed, data)[1], "held out")
    return EvaluationSplit(everything, "all")


def _hold_out(
    everything: SegmentationSet, fraction: float, seed: int, data: str
) -> tuple[SegmentationSet, SegmentationSet]:
    """(rest, held), both in order. Raises `RMTError` when one of them would be empty."""
    count = round(fraction * len(everything))
    if not 1 <= count < len(everything):
        raise RMTError(
            f"{data}: no validation split, and --holdout {fraction:g} of {len(everything)} images leaves one side empty"
        )
    held = set(permutation(len(everything), HOLD_OUT, seed)[:count].tolist())
    rest = everything.subset([i for i in range(len(everything)) if i not in held])
    return rest, everything.subset(sorted(held))


def _folder(data: str) -> Path:
    if not data:
        raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
    root = Path(data).expanduser()
    if not root.is_dir():
        raise RMTError(f"{data}: no such folder")
    return root


def _class_list(root: Path, classes: str, zero_is_ignored: bool) -> ClassList:
    if classes:
        return ClassList.read(Path(classes).expanduser(), zero_is_ignored)
    for name in CLASS_LISTS:
        if (root / name).is_file():
            return ClassList.read(root / name, zero_is_ignored)
    raise RMTError(f"{root}: no class list; put a classes.txt there, a class per line, or name it: --classes FILE")


def _side(root: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise RMTError(f"{root}: no folder with the {what}; expected one of {', '.join(names)}")


def _split_folders(images: Path, masks: Path, split: Split) -> tuple[Path, Path] | None:
    """The folders of a split below both sides, or None where the images have none."""
    for name in NAMES[split]:
        if (images / name).is_dir():
            if not (masks / name).is_dir():
                raise RMTError(f"{masks / name}: no such folder, where the masks of {images / name} should be")
            return images / name, masks / name
    return None


def _pairs(images: Path, masks: Path, classes: ClassList) -> SegmentationSet:
    """Every image below `images` with the mask of the same name below `masks`, whatever their extensions."""
    skipped: Counter[str] = Counter()
    ours, theirs = _by_stem(images, skipped), _by_stem(masks, skipped)
    skipped["image without a mask"] += len(ours.keys() - theirs.keys())
    skipped["mask without an image"] += len(theirs.keys() - ours.keys())
    both = sorted(ours.keys() & theirs.keys())
    if not both:
        first = next(iter(sorted(ours)), None)
        example = f", e.g. {first}.png for {ours[first].name}" if first is not None else ""
        raise RMTError(f"no image of {images} has a mask of its name in {masks}{example}")
    return SegmentationSet(
        classes,
        tuple(ours[stem] for stem in both),
        tuple(theirs[stem] for stem in both),
        {reason: count for reason, count in skipped.items() if count},
    )


def _by_stem(folder: Path, skipped: Counter[str]) -> dict[str, Path]:
    """The image files at any depth of a folder, by their path in it without the extension."""
    found: dict[str, Path] = {}
    for file in sorted(folder.rglob("*")):
        if file.is_dir():
            continue
        if file.name.startswith("."):
            skipped["hidden"] += 1
        elif file.suffix.lower() not in EXTENSIONS:
            skipped["not an image"] += 1
        elif (stem := file.relative_to(folder).with_suffix("").as_posix()) in found:
            skipped["same name as another but for the extension"] += 1
        else:
            found[stem] = file
    return found
