"""Find out how the images and masks of a segmentation set lie.

This is the one place that decides what a folder is: `images/` and `masks/` (with folders per split, or undivided), or
`train/` beside `trainannot/` (or `train_labels/`, …), as CamVid is distributed. `rmt.data.split_names` says which names
are splits.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmt.data.files import require_folder_access, subfolder
from rmt.data.segmentation.masks import ClassList
from rmt.data.split_names import SPLITS, Split, by_split, folder_names, split_folders, split_of
from rmt.errors import RMTError

IMAGES = ("images", "img", "imgs")
MASKS = ("annotations", "masks", "labels", "mask")
SIBLINGS = ("annot", "_annot", "_labels", "_label", "labels", "_masks", "_mask", "masks")
"""What is added to the name of a split's image folder in that of its mask folder beside it."""
CLASS_LISTS = ("classes.txt", "objectInfo150.txt", "class_dict.csv")


@dataclass(frozen=True)
class SegmentationLayout:
    """Where the images and the masks of each split are; undivided data are "train" alone."""

    name: str
    classes: ClassList
    class_file: Path
    splits: dict[Split, tuple[Path, Path]]


def segmentation_layout(data: str, classes: str = "", *, zero_is_ignored: bool = False) -> SegmentationLayout:
    """The layout of a folder, and its class list: the file `classes`, or one that lies in the folder.

    Raises `RMTError` that says what is expected.
    """
    if not data:
        raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
    root = Path(data).expanduser()
    require_folder_access(root)
    if not root.is_dir():
        raise RMTError(f"{data}: {'a file, not a folder' if root.exists() else 'no such folder'}")
    class_file = _class_file(root, classes)
    class_list = ClassList.read(class_file, zero_is_ignored)
    if siblings := mask_siblings(root):
        for split, folder in split_folders(root).items():
            if split not in siblings and split != "test":
                raise RMTError(f"{folder}: no folder with its masks beside it, such as {folder.name}{SIBLINGS[0]}")
        name = ", ".join(f"{images.name}/ and {masks.name}/" for images, masks in siblings.values())
        return SegmentationLayout(name, class_list, class_file, siblings)
    images, masks = _first_folder(root, IMAGES, "images"), _first_folder(root, MASKS, "masks")
    found = _split_folders(images, masks)
    name = f"{images.name}/ and {masks.name}/"
    return SegmentationLayout(name, class_list, class_file, found or {"train": (images, masks)})


def _class_file(root: Path, classes: str) -> Path:
    own = (root / name for name in CLASS_LISTS)
    path = Path(classes).expanduser() if classes else next(filter(Path.is_file, own), None)
    if path is None:
        raise RMTError(
            f"{root}: no class list; put a classes.txt there, a class per line (for masks of 0 and 255: `background` "
            "and `NAME 255`), or name it: --classes FILE"
        )
    return path


def _first_folder(root: Path, names: Sequence[str], what: str) -> Path:
    found = subfolder(root, names)
    if found is None:
        raise RMTError(f"{root}: no folder with the {what}; expected one of {', '.join(names)}")
    return found


def _split_folders(images: Path, masks: Path) -> dict[Split, tuple[Path, Path]]:
    """The folders of the images and the masks of each split."""
    image_folders, mask_folders = split_folders(images), split_folders(masks)
    for split in SPLITS:
        if split in image_folders and split not in mask_folders and split != "test":
            # test images are often published without masks
            where = masks / image_folders[split].name
            raise RMTError(f"{where}: no such folder, where the masks of {image_folders[split]} should be")
        if split in mask_folders and split not in image_folders:
            raise RMTError(f"{images}: no folder for {split}, whose masks are in {mask_folders[split]}")
    return {split: (folder, mask_folders[split]) for split, folder in image_folders.items() if split in mask_folders}


def mask_siblings(root: Path) -> dict[Split, tuple[Path, Path]]:
    """`train/` with `trainannot/` beside it, `train_images/` with `train_masks/`, and so on, in any case."""
    present = {name.lower(): name for name in folder_names(root)}
    pairs: dict[str, str] = {}  # images -> masks
    for lower, name in present.items():
        stem = re.sub(r"[-_ ]?(images|imgs|img)$", "", lower) if split_of(name) else ""
        masks = next((present[stem + end] for end in SIBLINGS if stem and stem + end in present), None)
        if masks is not None:
            pairs[name] = masks
    return {split: (root / name, root / pairs[name]) for split, name in by_split(pairs, root).items()}
