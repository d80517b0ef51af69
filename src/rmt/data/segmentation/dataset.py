"""Images with masks: ADE20K as downloaded, or any folder of images and masks with a class list."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from rmt.data.images import EXTENSIONS, BadImage, read_image
from rmt.data.segmentation.masks import IGNORE, ClassList, read_mask
from rmt.data.sets import EvaluationSplit, HoldOut, Splits, class_indices, hold_out_mask
from rmt.data.split_names import NAMES, Split
from rmt.errors import RMTError

IMAGES = ("images", "img", "imgs")
MASKS = ("annotations", "masks", "labels", "mask")
CLASS_LISTS = ("classes.txt", "objectInfo150.txt")


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
    labels: np.ndarray | None = None  # int64 (classes of the files + 1,): the label of each; None: the same

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return str(self.images[index])

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


def count_pixels(pairs: SegmentationSet, most: int = 2000) -> np.ndarray:
    """int64 (K,): labelled pixels of each class in the masks; of a larger set, in `most` of them, evenly spread.

    Masks that cannot be used are left out.
    """
    counts = np.zeros(IGNORE + 1, dtype=np.int64)
    for index in np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), most)).astype(int)).tolist():
        try:
            counts += np.bincount(pairs.load_mask(index).ravel(), minlength=IGNORE + 1)
        except BadImage:
            continue
    return counts[: len(pairs.classes.names)]


def open_segmentation(
    data: str, classes: str = "", *, zero_is_ignored: bool = False, holdout: float = 0.0, seed: int = 0
) -> Splits[SegmentationSet]:
    """Open the training and the validation pairs of a folder.

    Args:
        data: a folder with `images/{training,validation}` and `annotations/{training,validation}` (ADE20K as
            downloaded; `train`, `val` and `masks`, `labels` are understood too), or with `images` and `masks` alone.
        classes: the class list, see `ClassList.read`; without it `classes.txt` or `objectInfo150.txt` of the folder.
        zero_is_ignored: see `ClassList`; `objectInfo150.txt` says so itself.
        holdout: fraction of the pairs that is held out for validation if there are no splits.
        seed: of the random choice of these.
    Raises:
        RMTError: no such folder, no pair, no class list.
    """
    class_list, images, masks = _layout(data, classes, zero_is_ignored)
    train_folders, val_folders = (_split_folders(images, masks, split) for split in ("train", "val"))
    if train_folders and val_folders:
        train, val = _pairs(*train_folders, class_list), _pairs(*val_folders, class_list)
        return Splits(train, val, {"train": train.skipped, "val": val.skipped})
    if train_folders or val_folders:
        missing: Split = "val" if train_folders else "train"
        raise RMTError(f"{images}: no folder for {missing}; expected one of {', '.join(NAMES[missing])}")
    whole = _pairs(images, masks, class_list)
    return Splits(*_hold_out(whole, holdout, seed, data), {"train and val": whole.skipped})


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
    class_list, images, masks = _layout(data, classes, zero_is_ignored)
    if split is not None:
        if not (folders := _split_folders(images, masks, split)):
            raise RMTError(f"--split {split}: {images} has no such folder; expected {' or '.join(NAMES[split])}")
        return EvaluationSplit(_pairs(*folders, class_list), split)
    if folders := _split_folders(images, masks, "val"):
        return EvaluationSplit(_pairs(*folders, class_list), "val")
    whole = _pairs(images, masks, class_list)
    if held:
        return EvaluationSplit(_hold_out(whole, held.fraction, held.seed, data)[1], "held out")
    return EvaluationSplit(whole, "all")


def _hold_out(whole: SegmentationSet, fraction: float, seed: int, data: str) -> tuple[SegmentationSet, SegmentationSet]:
    """(rest, held), both in order. Raises `RMTError` if one of them would be empty."""
    held = hold_out_mask(len(whole), fraction, seed, data, "add a validation split")
    return whole.subset(np.flatnonzero(~held)), whole.subset(np.flatnonzero(held))


def _layout(data: str, classes: str, zero_is_ignored: bool) -> tuple[ClassList, Path, Path]:
    """The class list, and the folders of the images and of the masks."""
    if not data:
        raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
    root = Path(data).expanduser()
    if not root.is_dir():
        raise RMTError(f"{data}: no such folder")
    class_list = _class_list(root, classes, zero_is_ignored)
    return class_list, _first_folder(root, IMAGES, "images"), _first_folder(root, MASKS, "masks")


def _class_list(root: Path, classes: str, zero_is_ignored: bool) -> ClassList:
    own = (root / name for name in CLASS_LISTS)
    path = Path(classes).expanduser() if classes else next(filter(Path.is_file, own), None)
    if path is None:
        raise RMTError(f"{root}: no class list; put a classes.txt there, a class per line, or name it: --classes FILE")
    return ClassList.read(path, zero_is_ignored)


def _first_folder(root: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise RMTError(f"{root}: no folder with the {what}; expected one of {', '.join(names)}")


def _split_folders(images: Path, masks: Path, split: Split) -> tuple[Path, Path] | None:
    """The folders of the images and masks of a split; None if the images have no such folder."""
    name = next((name for name in NAMES[split] if (images / name).is_dir()), None)
    if name and not (masks / name).is_dir():
        raise RMTError(f"{masks / name}: no such folder, where the masks of {images / name} should be")
    return (images / name, masks / name) if name else None


def _pairs(images: Path, masks: Path, classes: ClassList) -> SegmentationSet:
    """Every image below `images` with the mask of the same name below `masks`, whatever their extensions."""
    skipped: Counter[str] = Counter()
    image_of, mask_of = _by_stem(images, skipped), _by_stem(masks, skipped)
    skipped["image without a mask"] += len(image_of.keys() - mask_of.keys())
    skipped["mask without an image"] += len(mask_of.keys() - image_of.keys())
    both = sorted(image_of.keys() & mask_of.keys())
    if not both:
        first = min(image_of, default=None)
        example = f", e.g. {first}.png for {image_of[first].name}" if first is not None else ""
        raise RMTError(f"no image of {images} has a mask of its name in {masks}{example}")
    found = [tuple(paths[stem] for stem in both) for paths in (image_of, mask_of)]
    return SegmentationSet(classes, found[0], found[1], dict(+skipped))  # + drops the zeros


def _by_stem(folder: Path, skipped: Counter[str]) -> dict[str, Path]:
    """The image files at any depth of a folder, by their relative path without the extension."""
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
