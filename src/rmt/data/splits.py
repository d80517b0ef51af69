"""From what the user wrote after `--data` to a set of images."""

import re
from pathlib import Path
from typing import Literal

from rmt.data.folders import FolderSet, class_folders
from rmt.data.sets import ImageSet, hold_out, listed
from rmt.data.shards import ShardSet, complete
from rmt.data.tars import TarSet
from rmt.errors import RMTError

SAMPLE = Path(__file__).parent / "sample"

# What the two splits may be called, the first that exists being taken.
NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid", "dev", "test")}

Split = Literal["train", "val"]


def open_split(data: str, split: Split, *, holdout: float = 0.1, seed: int = 0) -> ImageSet:
    """Open the training or the validation images of `data`.

    `data` is `"sample"` (the built-in one; its test images are the split `val`), a folder with `train/CLASS/*` and
    `val/CLASS/*`, a folder of class folders, or a folder of parquet shards (`train-*.parquet`, `data/train-*.parquet`
    or `train/*.parquet`, likewise for the other split) or of WebDataset tars named like them. Data with no validation
    split of their own are divided by `hold_out(…, holdout, seed)`, the same way for both calls; `holdout` is not used
    otherwise.

    Raises `RMTError` for whatever is wrong with the data.
    """
    parts = _parts(data)
    if "val" in parts:
        return _open_checked(parts["train"], parts["val"], split)
    if not holdout > 0:
        raise RMTError(f"{data}: no folder val/ inside, and no fraction of the training images to hold out instead")
    rest, held = hold_out(_open(parts["train"]), float(holdout), seed)
    return rest if split == "train" else held


def open_all(data: str) -> ImageSet:
    """The images an evaluation should score: the validation split where there is one, else every image of `data`."""
    parts = _parts(data, needs_train=False)
    return _open(parts.get("val", parts.get("train")))


def open_undivided(data: str) -> ImageSet:
    """Every training image of `data`, those included that `open_split` holds out for validation."""
    return _open(_parts(data)["train"])


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders of class folders of an image folder: `train`, and `val` where there is one."""
    parts = _folder_parts(root)
    return {split: part for split in ("train", "val") if isinstance(part := parts.get(split), Path)}


_Part = Path | tuple[Path, ...]  # a folder of class folders, or shards


def _open(part: _Part | None) -> ImageSet:
    assert part is not None
    if isinstance(part, Path):
        return FolderSet(part)
    return TarSet(part) if part[0].suffix == ".tar" else ShardSet(part)


def _parts(data: str, needs_train: bool = True) -> dict[str, _Part]:
    """Where the splits of `data` lie: `train` and, if the data have one, `val`."""
    if not data:  # Path("") would be the folder we happen to be in
        raise RMTError("no data given; name an image folder, a folder of parquet shards, or sample")
    if "://" in data:
        raise RMTError(f"{data}: addresses cannot be read; copy the data to a folder and name that")
    root = SAMPLE if data == "sample" else Path(data).expanduser()
    parts = _shard_parts(root) or _folder_parts(root)
    if needs_train and "train" not in parts:
        raise RMTError(f"{data}: a validation split but no training split; expected a folder train/ beside it")
    return parts


def _folder_parts(root: Path) -> dict[str, _Part]:
    present = class_folders(root)  # also says when there is no such folder, or nothing in it
    parts: dict[str, _Part] = {}
    for split, names in NAMES.items():
        for name in names:
            if name in present:
                parts.setdefault(split, root / name)
    # A folder `test` among class folders is a class; a split needs its partner or its unmistakable name.
    return parts if "train" in parts or {"val", "validation"} & set(present) else {"train": root}


def _shard_parts(root: Path) -> dict[str, _Part]:
    """The shards of each split by their names, or of everything as `train` if no name tells."""
    named: dict[str, dict[str, list[Path]]] = {"train": {}, "val": {}}
    unnamed: list[Path] = []
    for folder in (root, root / "data"):
        for shard in _shards_in(folder):
            split = re.split(r"[-_.]", shard.name)[0]
            for ours, names in NAMES.items():
                if split in names:
                    named[ours].setdefault(split, []).append(shard)
                    break
            else:
                unnamed.append(shard)
        for ours, names in NAMES.items():
            for name in names:
                if shards := _shards_in(folder / name):
                    named[ours].setdefault(name, []).extend(shards)
    parts: dict[str, _Part] = {}
    for ours, names in NAMES.items():
        first = next((name for name in names if name in named[ours]), None)
        if first is not None:
            parts[ours] = tuple(complete(named[ours][first]))
    if not parts and unnamed:
        parts["train"] = tuple(complete(unnamed))
    return parts


def _shards_in(folder: Path) -> list[Path]:
    """The parquet shards directly in a folder, or the WebDataset tars if there are none."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("*.tar"))


def _open_checked(train: _Part, val: _Part, split: Split) -> ImageSet:
    """Open one of two splits, after a look at whether both have the same classes."""
    if isinstance(train, Path) and isinstance(val, Path):  # two listings tell; the other split may have a million files
        ours, theirs = set(class_folders(train)), set(class_folders(val))
        chosen = _open(train if split == "train" else val)
    else:
        both = {"train": _open(train), "val": _open(val)}
        ours, theirs = set(both["train"].classes), set(both["val"].classes)
        chosen = both[split]
    wrong = []
    if ours - theirs:
        wrong.append(f"{listed(sorted(ours - theirs))} only in train")
    if theirs - ours:
        wrong.append(f"{listed(sorted(theirs - ours))} only in val")
    if wrong:
        where = train.parent if isinstance(train, Path) else train[0].parent
        raise RMTError(f"{where}: train and val have different classes: {'; '.join(wrong)}")
    return chosen
