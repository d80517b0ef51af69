"""The names of splits: which folder, list or shard is for training, validation and test. All tasks use them."""

from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
"""The names of each split, the preferred ones first."""

_SPLIT_OF: dict[str, Split] = {name: split for split, names in NAMES.items() for name in names}


def split_of(name: str) -> Split | None:
    """The split that a folder, list or shard of this name belongs to; None if the name says nothing about it."""
    return _SPLIT_OF.get(name)


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders directly below `root` that are named like a split; of several names the preferred one."""
    folders = {split: next((root / name for name in NAMES[split] if (root / name).is_dir()), None) for split in SPLITS}
    return {split: folder for split, folder in folders.items() if folder is not None}
