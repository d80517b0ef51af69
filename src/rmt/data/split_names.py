"""The names of splits: which folder, list or shard is for training, validation and test. All tasks use them."""

import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal

from rmt.errors import RMTError

Split = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")

NAMES: dict[Split, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid", "dev"),
    "test": ("test", "testing"),
}
"""The names of each split, in lower case."""

_SPLIT_OF: dict[str, Split] = {name: split for split, names in NAMES.items() for name in names}
_BESIDE = frozenset({"seg", "set", "data", "dataset", "images", "image", "imgs", "img", "split", "folder", "obj"})
"""Words that may stand beside that of a split, as in `seg_train`, `Train Set` and `train_images`."""
_JOINED = ("images", "data", "set")  # as in `trainset`


def split_of(name: str) -> Split | None:
    """The split that a folder, list or shard of this name belongs to; None if the name says nothing about it.

    Upper and lower case are the same, and the usual words may stand beside that of the split: `Training`, `seg_train`,
    `train_set`, `trainset`.
    """
    words = [word for word in re.split(r"[-_. ]+", name.lower()) if word and word not in _BESIDE]
    if len(words) != 1:
        return None
    stems = (words[0], *(words[0].removesuffix(end) for end in _JOINED))
    return next((_SPLIT_OF[stem] for stem in stems if stem in _SPLIT_OF), None)


def resembles_splits(names: Collection[str]) -> bool:
    """Whether each of these names has a word of a split in it, some for training and others not, without naming one.

    So do `trainA` and `testB`, `train2017` and `val2017`, `cat_train` and `cat_test`.
    """
    words = [re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name) for name in names]
    found = [{_SPLIT_OF[word.lower()] for word in each if word.lower() in _SPLIT_OF} for each in words]
    return all(found) and {"train"} < set().union(*found)


def by_split(names: Iterable[str], where: Path | str) -> dict[Split, str]:
    """The names that belong to a split, by split, in the order train, val, test.

    Raises `RMTError`, beginning with `where`, if two of them are the same split: one would go unused.
    """
    found: dict[Split, str] = {}
    for name in sorted(names):
        split = split_of(name)
        if split is None:
            continue
        if split in found:
            raise RMTError(f"{where}: both {found[split]} and {name} are named like the {split} split; rename one")
        found[split] = name
    return {split: found[split] for split in SPLITS if split in found}


def folder_names(root: Path) -> list[str]:
    """The names of the folders directly below `root`, without hidden ones; none if it cannot be read."""
    try:
        return sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []


def split_folders(root: Path, among: Collection[str] | None = None) -> dict[Split, Path]:
    """The folders directly below `root` that are named like a split, in the order train, val, test.

    A folder that has nothing but a folder of its own name, as archives unpack (`seg_train/seg_train`), stands for that.
    Raises `RMTError` if two are the same split.

    Args:
        root: the folder of the data.
        among: names of its folders, if they are known already.
    """
    names = folder_names(root) if among is None else among
    return {split: _inner(root / name) for split, name in by_split(names, root).items()}


def _inner(folder: Path) -> Path:
    inner = folder / folder.name
    if not os.path.isdir(inner):  # unlike Path.is_dir, False for what may not be looked at
        return folder
    others = [path for path in folder.iterdir() if path != inner and not path.name.startswith(".")]
    return folder if others else inner
