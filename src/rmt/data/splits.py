"""Open the image sets that the value of `--data` names."""

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
"""Default number of images among which the training order of streamed shards is random."""

SAMPLE = Path(__file__).parent / "sample"

# Names of the two splits; the first that exists is used.
NAMES = {"train": ("train", "training"), "val": ("val", "validation", "valid", "dev", "test")}
_SPLIT_OF = {name: split for split, names in NAMES.items() for name in names}

Split = Literal["train", "val"]
S = TypeVar("S", Path, RemoteFile)
_Source = Path | tuple[Path, ...] | tuple[RemoteFile, ...]  # a folder of class folders, or shards


def open_splits(
    data: str, *, holdout: float = 0.1, seed: int = 0, stream: str = "auto", buffer: int = BUFFER
) -> Splits[ImageSet]:
    """Open the training and the validation images of `data`.

    Args:
        data: `"sample"` (the built-in sample; its test images are the split `val`), a folder with `train/CLASS/*` and
            `val/CLASS/*`, a folder of class folders, or a folder of parquet shards (`train-*.parquet`,
            `data/train-*.parquet` or `train/*.parquet`, likewise for the other split) or of WebDataset tars with such
            names, local or at an address.
        holdout, seed: arguments of `hold_out` for data without a validation split; otherwise not used.
        stream: "no" converts shards and maps them into memory as a whole, "yes" streams them (see `ShardSet`), "auto"
            streams them if the disk has no space for the whole.
        buffer: see `ShardOrder`.
    Raises:
        RMTError: the data cannot be used, for instance because the splits have different classes.
    """
    parts = _parts(data)
    buffer_if_streamed = buffer if _streams(parts, stream) else None
    train = _open(parts["train"], buffer_if_streamed)
    if "val" in parts:
        val = _open(parts["val"], buffer_if_streamed)
        _check_same_classes(data, set(train.classes), set(val.classes))
        return Splits(train, val, {"train": train.skipped, "val": val.skipped})
    if not holdout > 0:
        raise RMTError(f"{data}: no folder val/ inside, and no fraction of the training images to hold out instead")
    return Splits(*hold_out(train, float(holdout), seed), {"train and val": train.skipped})


def open_evaluation_split(data: str, held: HoldOut | None = None) -> EvaluationSplit[ImageSet]:
    """The images that an evaluation uses: the validation split if there is one.

    Otherwise those that a run held out, if `held` says how it divided `data`, or all images.
    """
    parts = _parts(data, needs_train=False)
    if "val" in parts:
        return EvaluationSplit(_open_auto(parts["val"]), "val")
    whole = _open_auto(parts["train"])
    if held:
        return EvaluationSplit(hold_out(whole, held.fraction, held.seed)[1], "held out")
    return EvaluationSplit(whole, "all")


def open_train(data: str) -> ImageSet:
    """Every training image of `data`, including those that `open_splits` holds out for validation."""
    return _open_auto(_parts(data)["train"])


def resolve_stream(data: str, stream: str) -> Literal["yes", "no"]:
    """Whether `open_splits` streams the shards of `data` with this value of `stream`."""
    return "yes" if _streams(_parts(data, needs_train=False), stream) else "no"


def split_folders(root: Path) -> dict[Split, Path]:
    """The folders of class folders of an image folder: `train`, and `val` if there is one."""
    present = class_folders(root)  # raises RMTError if there is no such folder, or nothing in it
    found: dict[Split, Path] = {}
    for split in ("train", "val"):
        if name := next((name for name in NAMES[split] if name in present), None):
            found[split] = root / name
    # A folder `test` among class folders is a class, unless there is `train` or an unmistakable name too.
    return found if "train" in found or {"val", "validation"} & set(present) else {"train": root}


def _open(part: _Source, buffer: int | None) -> FolderSet | ShardSet:
    return FolderSet(part) if isinstance(part, Path) else ShardSet(part, buffer=buffer)


def _open_auto(part: _Source) -> FolderSet | ShardSet:
    return _open(part, BUFFER if _streams({"": part}, "auto") else None)


def _streams(parts: Mapping[str, _Source], stream: str) -> bool:
    if stream not in ("auto", "yes", "no"):
        raise RMTError(f"--stream must be auto, yes or no, not {stream!r}")
    sets = [part for part in parts.values() if not isinstance(part, Path)]
    return bool(sets) and (stream == "yes" or (stream == "auto" and not fit_disk(sets)))


def _parts(data: str, needs_train: bool = True) -> Mapping[str, _Source]:
    """Where the splits of `data` are: `train`, and `val` if there is one."""
    if not data:  # Path("") would be the current folder
        raise RMTError("no data given; name an image folder, a folder of parquet shards, or sample")
    parts = _remote_shards(data) if is_url(data) else _local_parts(data)
    if needs_train and "train" not in parts:
        raise RMTError(f"{data}: a validation split but no training split; expected a folder train/ beside it")
    return parts


def _local_parts(data: str) -> Mapping[str, _Source]:
    root = SAMPLE if data == "sample" else Path(data).expanduser()
    shards: Mapping[str, _Source] = _by_split(
        {name: sorted((root / name).glob("*")) for name in ("", "data", *_SPLIT_OF)}
    )
    return shards or dict(split_folders(root).items())


def _remote_shards(url: str) -> Mapping[str, _Source]:
    folders: dict[str, list[RemoteFile]] = {}
    for file in list_folder(url):
        inside = file.url.removeprefix(url.rstrip("/") + "/")
        folders.setdefault(inside.rpartition("/")[0], []).append(file)
    if parts := _by_split(folders):
        return parts
    raise RMTError(f"{url}: no parquet shards and no tars there; other data can only be read from a folder")


def _by_split(folders: Mapping[str, Sequence[S]]) -> dict[str, tuple[S, ...]]:
    """The shards of each split, by their names or that of their folder; all are `train` if no name says otherwise.

    `folders` has the files in the folder of the data (""), and in its folders `data` and those named like a split.
    """
    named: dict[str, list[S]] = {}  # by the word that says the split; "" if none does
    for folder, files in folders.items():
        for shard in _shards_among(files):
            word = folder if folder in _SPLIT_OF else re.split(r"[-_.]", shard.name)[0]
            if word in _SPLIT_OF or folder in ("", "data"):
                named.setdefault(word if word in _SPLIT_OF else "", []).append(shard)
    parts: dict[str, tuple[S, ...]] = {}
    for word in (*_SPLIT_OF, ""):
        split = _SPLIT_OF.get(word, "train")
        if word in named and split not in parts and (word or not parts):
            check_complete(named[word])
            parts[split] = tuple(named[word])
    return parts


def _shards_among(files: Sequence[S]) -> list[S]:
    """The parquet shards among some files, or the WebDataset tars if there are none."""
    parquet, tars = ([file for file in files if file.name.endswith(kind)] for kind in (".parquet", ".tar"))
    return parquet or tars


def _check_same_classes(data: str, train: set[str], val: set[str]) -> None:
    only = {"train": train - val, "val": val - train}
    if wrong := [f"{preview(sorted(names))} only in {split}" for split, names in only.items() if names]:
        raise RMTError(f"{data}: train and val have different classes: {'; '.join(wrong)}")
