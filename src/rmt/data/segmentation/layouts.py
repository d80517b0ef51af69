"""Find out how the images and masks of a segmentation set lie.

This is the one place that decides what a folder is: `images/` and `masks/` (with folders per split, or undivided), or
`train/` beside `trainannot/` (or `train_labels/`, …), as CamVid is distributed. `rmt.data.split_names` says which names
are splits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmt.data.segmentation.masks import ClassList
from rmt.data.split_names import NAMES, SPLITS, Split
from rmt.errors import RMTError

IMAGES = ("images", "img", "imgs")
MASKS = ("annotations", "masks", "labels", "mask")
SIBLINGS = ("annot", "_annot", "_labels", "_label", "labels", "_masks", "_mask", "masks")
"""What is added to the name of a split's image folder in that of its mask folder beside it."""
CLASS_LISTS = ("classes.txt", "objectInfo150.txt", "class_dict.csv")


@dataclass(frozen=True)
class SegmentationLayout:
    """Where the images and the masks of each split are; undivided data are "train" alone, and `divided` is False."""

    name: str
    classes: ClassList
    class_file: Path
    splits: dict[Split, tuple[Path, Path]]
    divided: bool


def segmentation_layout(data: str, classes: str = "", *, zero_is_ignored: bool = False) -> SegmentationLayout:
    """The layout of a folder, and its class list: the file `classes`, or one that lies in the folder.

    Raises `RMTError` that says what is expected.
    """
    if not data:
        raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
    root = Path(data).expanduser()
    if not root.is_dir():
        raise RMTError(f"{data}: {'a file, not a folder' if root.exists() else 'no such folder'}")
    class_file = _class_file(root, classes)
    class_list = ClassList.read(class_file, zero_is_ignored)
    if siblings := mask_siblings(root):
        name = ", ".join(f"{images.name}/ and {masks.name}/" for images, masks in siblings.values())
        return SegmentationLayout(name, class_list, class_file, siblings, True)
    images, masks = _first_folder(root, IMAGES, "images"), _first_folder(root, MASKS, "masks")
    parts = {split: _split_folders(images, masks, split) for split in SPLITS}
    found = {split: folders for split, folders in parts.items() if folders}
    name = f"{images.name}/ and {masks.name}/"
    return SegmentationLayout(name, class_list, class_file, found or {"train": (images, masks)}, bool(found))


def _class_file(root: Path, classes: str) -> Path:
    own = (root / name for name in CLASS_LISTS)
    path = Path(classes).expanduser() if classes else next(filter(Path.is_file, own), None)
    if path is None:
        raise RMTError(f"{root}: no class list; put a classes.txt there, a class per line, or name it: --classes FILE")
    return path


def _first_folder(root: Path, names: Sequence[str], what: str) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise RMTError(f"{root}: no folder with the {what}; expected one of {', '.join(names)}")


def _split_folders(images: Path, masks: Path, split: Split) -> tuple[Path, Path] | None:
    """The folders of the images and masks of a split; None if the images have no such folder."""
    name = next((name for name in NAMES[split] if (images / name).is_dir()), None)
    if name and not (masks / name).is_dir():
        if split == "test":  # test images are often published without masks
            return None
        raise RMTError(f"{masks / name}: no such folder, where the masks of {images / name} should be")
    return (images / name, masks / name) if name else None


def mask_siblings(root: Path) -> dict[Split, tuple[Path, Path]]:
    """`train/` with `trainannot/` beside it, and so on."""
    found: dict[Split, tuple[Path, Path]] = {}
    for split in SPLITS:
        for name in NAMES[split]:
            masks = next((root / f"{name}{end}" for end in SIBLINGS if (root / f"{name}{end}").is_dir()), None)
            if masks is not None and (root / name).is_dir() and split not in found:
                found[split] = (root / name, masks)
    return found
