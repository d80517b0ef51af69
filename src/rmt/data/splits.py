"""From what the user wrote after `--data` to a set of images."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from rmt.data.sets import EvaluationSplit, HoldOut, ImageSet, Splits, hold_out, preview
from rmt.data.sources.cache import fit_disk
from rmt.data.sources.folders import FolderSet, class_folders
from rmt.data.sources.remote import RemoteFile, is_url, list_folder
from rmt.data.sources.shards import ShardSet, check_complete
from rmt.errors import RMTError

BUFFER = 50_000
"""Images among which the training order of streamed shards is random, unless chosen."""

SAMPLE = Path(__file__).parent / "sample"

# What the two splits may be called, the first that exists being taken.
NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid", "dev", "test")}

Split = Literal["train", "val"]
S = TypeVar("S", Path, RemoteFile)


def open_splits(
    data: str, *, holdout: float = 0.1, seed: int = 0, stream: str = "auto", buffer: int = BUFFER
) -> Splits[ImageSet]:
    """Open the training and the validation images of `data`.

    `data` is `"sample"` (the built-in one; its test images are the split `val`), a folder with `train/CLASS/*` and
    `val/CLASS/*`, a folder of class folders, or a folder of parquet shards (`train-*.parquet`, `data/train-*.parquet`
    or `train/*.parquet`, likewise for the other split) or of WebDataset tars named like them, here or at an address.
    Data with no validation split of their own are divided by `hold_out(…, holdout, seed)`; `holdout` is not used
    otherwise.

    Shards are converted and mapped into memory as a whole with `stream="no"`, streamed (see `ShardSet`, also for
    `buffer`) with "yes"; "auto" streams what does not fit the disk.

    Raises `RMTError` for whatever is wrong with the data, such as splits of different classes.
    """
    parts = _parts(data)
    streamed = buffer if _streams(parts, stream) else None
    if "val" in parts:
        train, val = _open(parts["train"], streamed), _open(parts["val"], streamed)
        _check_classes(parts["train"], set(train.classes), set(val.classes))
        return Splits(train, val, {"train": train.skipped, "val": val.skipped})
    if not holdout > 0:
        raise RMTError(f"{data}: no folder val/ inside, and no fraction of the training images to hold out instead")
    whole = _open(parts["train"], streamed)
    return Splits(*hold_out(whole, float(holdout), seed), {"train and val": whole.skipped})


def open_evaluation_split(data: str, held: HoldOut | None = None) -> EvaluationSplit[ImageSet]:
    """The images an evaluation should score: the validation split where there is one.

    Else those that a run held out, if `held` says how it divided `data`; else every image.
    """
    parts = _parts(data, needs_train=False)
    part = parts["val"] if "val" in parts else parts["train"]
    whole = _open(part, BUFFER if _streams({"val": part}, "auto") else None)
    if "val" in parts:
        return EvaluationSplit(whole, "val")
    if held:
        return EvaluationSplit(hold_out(whole, held.fraction, held.seed)[1], "held out")
    return EvaluationSplit(whole, "all")


def open_train(data: str) -> ImageSet:
    """Every training image of `data`, those included that `open_splits` holds out for validation."""
    part = _parts(data)["train"]
    return _open(part, BUFFER if _streams({"train": part}, "auto") else None)


def resolve_stream(data: str, stream: str) -> Literal["yes", "no"]:
    """Whether shards are streamed, "yes" or "no": with "auto" when mapped copies of all would not fit the disk."""
    return "yes" if _streams(_parts(data, needs_train=False), stream) else "no"


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders of class folders of an image folder: `train`, and `val` where there is one."""
    parts = _folder_parts(root)
    return {split: part for split in ("train", "val") if isinstance(part := parts.get(split), Path)}


_Part = Path | tuple[Path, ...] | tuple[RemoteFile, ...]  # a folder of class folders, or shards


def _open(part: _Part, buffer: int | None) -> FolderSet | ShardSet:
    return FolderSet(part) if isinstance(part, Path) else ShardSet(part, buffer=buffer)


def _streams(parts: Mapping[str, _Part], stream: str) -> bool:
    if stream not in ("auto", "yes", "no"):
        raise RMTError(f"--stream must be auto, yes or no, not {stream!r}")
    sets = [part for part in parts.values() if not isinstance(part, Path)]
    return bool(sets) and (stream == "yes" or (stream == "auto" and not fit_disk(sets)))


def _parts(data: str, needs_train: bool = True) -> Mapping[str, _Part]:
    """Where the splits of `data` lie: `train` and, if the data have one, `val`."""
    if not data:  # Path("") would be the folder we happen to be in
        raise RMTError("no data given; name an image folder, a folder of parquet shards, or sample")
    if is_url(data):
        parts = _remote_parts(data)
    else:
        root = SAMPLE if data == "sample" else Path(data).expanduser()
        parts = _shard_parts(root) or _folder_parts(root)
    if needs_train and "train" not in parts:
        raise RMTError(f"{data}: a validation split but no training split; expected a folder train/ beside it")
    return parts


def _folder_parts(root: Path) -> Mapping[str, _Part]:
    present = class_folders(root)  # also says when there is no such folder, or nothing in it
    parts: dict[str, _Part] = {}
    for split, names in NAMES.items():
        for name in names:
            if name in present:
                parts.setdefault(split, root / name)
    # A folder `test` among class folders is a class; a split needs its partner or its unmistakable name.
    return parts if "train" in parts or {"val", "validation"} & set(present) else {"train": root}


def _shard_parts(root: Path) -> Mapping[str, _Part]:
    """The shards of each split in a folder."""
    inside = ("", "data", *NAMES["train"], *NAMES["val"])
    return _by_split({name: sorted((root / name).glob("*")) for name in inside})


def _remote_parts(address: str) -> Mapping[str, _Part]:
    """The shards of each split at an address."""
    folders: dict[str, list[RemoteFile]] = {}
    for file in list_folder(address):
        below = file.url.removeprefix(address.rstrip("/") + "/")
        folders.setdefault(below.rpartition("/")[0], []).append(file)
    parts = _by_split(folders)
    if not parts:
        raise RMTError(f"{address}: no parquet shards and no tars there; other data can only be read from a folder")
    return parts


def _by_split(folders: Mapping[str, Sequence[S]]) -> dict[str, tuple[S, ...]]:
    """The shards of each split by their names or their folder's; everything is `train` if no name tells.

    `folders` holds the files of the folders of interest: "" for that which was named, "data", and the splits' names.
    """
    named: dict[str, dict[str, list[S]]] = {"train": {}, "val": {}}
    unnamed: list[S] = []
    split_of = {name: split for split, names in NAMES.items() for name in names}
    for folder, files in folders.items():
        for shard in _shards_among(files):
            word = folder if folder in split_of else re.split(r"[-_.]", shard.name)[0]
            if word in split_of:
                named[split_of[word]].setdefault(word, []).append(shard)
            elif folder in ("", "data"):
                unnamed.append(shard)
    parts: dict[str, tuple[S, ...]] = {}
    for split, names in NAMES.items():
        first = next((name for name in names if name in named[split]), None)
        if first is not None:
            parts[split] = tuple(named[split][first])
    if not parts and unnamed:
        parts["train"] = tuple(unnamed)
    for shards in parts.values():
        check_complete(shards)
    return parts


def _shards_among(files: Sequence[S]) -> list[S]:
    """The parquet shards among some files, or the WebDataset tars if there are none."""
    for kind in (".parquet", ".tar"):
        if shards := [file for file in files if file.name.endswith(kind)]:
            return shards
    return []


def _check_classes(part: _Part, train: set[str], val: set[str]) -> None:
    """Raises `RMTError` unless both splits have the same classes; `part` says where."""
    wrong = []
    if train - val:
        wrong.append(f"{preview(sorted(train - val))} only in train")
    if val - train:
        wrong.append(f"{preview(sorted(val - train))} only in val")
    if wrong:
        where = part.parent if isinstance(part, Path) else str(part[0]).rpartition("/")[0]
        raise RMTError(f"{where}: train and val have different classes: {'; '.join(wrong)}")
