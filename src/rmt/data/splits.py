"""Open the image sets that the value of `--data` names."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from rmt.data.files import require_folder_access
from rmt.data.fingerprint import recognised
from rmt.data.sets import EvaluationSplit, HoldOut, ImageSet, Splits, hold_out, preview, with_classes
from rmt.data.sources.cache import fit_disk
from rmt.data.sources.conversion import Shard
from rmt.data.sources.folders import FolderSet, class_folders
from rmt.data.sources.remote import is_url, list_folder
from rmt.data.sources.shards import ShardSet, check_complete
from rmt.data.sources.tables import TableSet, table_files
from rmt.data.split_names import Split, by_split, folder_names, resembles_splits, split_folders, split_of
from rmt.errors import RMTError

BUFFER = 50_000
"""Default number of images among which the training order of streamed shards is random."""

MOST_HELD_OUT = 1000
"""Images of a held-out fraction at most, for data with a test split: enough to choose the best weights by."""

_NO_CLASSES = {"images", "img", "imgs", "labels", "masks", "mask", "annotations"}
"""Names of folders in data for detection and segmentation, which a classifier would take for classes."""

_PROBED = 20
"""Class folders in which folders named like splits are looked for."""

SAMPLE = Path(__file__).parent / "sample"

_SHARDS = (".parquet", ".tar")
_Source = Path | tuple[Shard, ...]  # a folder of class folders or a CSV file, or shards


def open_splits(
    data: str, *, holdout: int | float = 0.1, seed: int = 0, stream: str = "auto", buffer: int = BUFFER
) -> Splits[ImageSet]:
    """Open the training and the validation images of `data`.

    Args:
        data: `"sample"` (the built-in sample), a folder with `train/CLASS/*` and `val/CLASS/*`, a folder of class
            folders, a folder with a CSV file of labels (see `TableSet`), or a folder of parquet shards
            (`train-*.parquet`, `data/train-*.parquet` or `train/*.parquet`, likewise for the other splits) or of
            WebDataset tars with such names, local or at an address.
        holdout, seed: amount and seed of `hold_out` for data without a validation split; otherwise not used. Where
            there is a test split, which is for the end of a run, a fraction holds out `MOST_HELD_OUT` images at most.
        stream: "no" converts shards and maps them into memory as a whole, "yes" streams them (see `ShardSet`), "auto"
            streams them if the disk has no space for the whole.
        buffer: see `ShardOrder`.
    Raises:
        RMTError: the data cannot be used, for instance because the splits have different classes.
    """
    parts = _parts(data)
    buffer_if_streamed = buffer if _streams(parts.values(), stream) else None
    train = _open(parts["train"], buffer_if_streamed)
    if "val" in parts:
        val = _open(parts["val"], buffer_if_streamed)
        skipped = {"train": train.skipped, "val": val.skipped}
        return Splits(train, _with_same_classes(data, train, val, "val"), skipped)
    if not holdout > 0:
        raise RMTError(f"{data}: no folder val/ inside, and no fraction of the training images to hold out instead")
    if "test" in parts and isinstance(holdout, float) and holdout * len(train) > MOST_HELD_OUT:
        holdout = MOST_HELD_OUT
    return Splits(*hold_out(train, holdout, seed), {"train and val": train.skipped})


def present_splits(data: str) -> tuple[Split, ...]:
    """The splits that `data` has. Raises `RMTError` if it cannot be used."""
    return tuple(_parts(data))


def open_test(
    data: str, train: ImageSet, *, stream: str = "auto", buffer: int = BUFFER
) -> tuple[ImageSet, dict[str, int]]:
    """Open the test split of `data`, and say what it has besides images. Arguments and errors as in `open_splits`.

    Args:
        train: the training images, whose classes the test images must have.
    """
    parts = _parts(data)
    test = _open(parts["test"], buffer if _streams(parts.values(), stream) else None)
    return _with_same_classes(data, train, test, "test"), test.skipped


def open_evaluation_split(
    data: str, held: HoldOut | None = None, split: Split | None = None
) -> EvaluationSplit[ImageSet]:
    """The images that an evaluation uses: those of `split`, or by default of the validation split, else the test split.

    Without either those that a run held out, if `held` says how it divided `data`, or all images.
    """
    parts = _parts(data, needs_train=False)
    if split is not None:
        require_split(data, split, parts)
        return EvaluationSplit(_open_auto(parts[split]), split)
    for name in ("val", "test"):
        if name in parts:
            return EvaluationSplit(_open_auto(parts[name]), name)
    whole = _open_auto(parts["train"])
    if held:
        found = recognised(held, lambda: hold_out(whole, held.fraction, held.seed)[1])
        if found is not None:
            return EvaluationSplit(found, "held out")
    return EvaluationSplit(whole, "all")


def open_train(data: str) -> ImageSet:
    """Every training image of `data`, including those that `open_splits` holds out for validation."""
    return _open_auto(_parts(data)["train"])


def open_parts(data: str) -> dict[Split, Callable[[], ImageSet]]:
    """A function for each split that opens it; shards are streamed, so that only those that are used are converted."""

    def opener(part: _Source) -> Callable[[], ImageSet]:
        return lambda: _open(part, None if isinstance(part, Path) else BUFFER)

    return {split: opener(part) for split, part in _parts(data, needs_train=False).items()}


def describe_parts(data: str) -> str:
    """The layout of `data` in words."""
    parts = _parts(data, needs_train=False)
    part = next(iter(parts.values()))
    if not isinstance(part, Path):
        kind = "tars" if part[0].name.endswith(".tar") else "parquet shards"
        return f"{sum(len(shards) for shards in parts.values() if not isinstance(shards, Path)):,} {kind}"
    return f"{part.name} and images" if part.is_file() else "class folders"


def require_split(data: str, split: Split, present: Collection[Split]) -> None:
    """Raise `RMTError` unless `data` has this split."""
    if split not in present:
        raise RMTError(f"--split {split}: {data} has {', '.join(present)} only")


def resolve_stream(data: str, stream: str) -> Literal["yes", "no"]:
    """Whether `open_splits` streams the shards of `data` with this value of `stream`."""
    return "yes" if _streams(_parts(data, needs_train=False).values(), stream) else "no"


def class_split_folders(root: Path) -> dict[Split, Path]:
    """The folders of class folders of an image folder: `train`, and `val` and `test` if there are such."""
    present = class_folders(root)  # raises RMTError if there is no such folder, or nothing in it
    named = [name for name in present if split_of(name)]
    if not named:
        _refuse_splits_in_classes(root, present)
    # Among class folders a folder `test` is a class, and one with images instead of folders is a class `train`. It is a
    # split if all are named so, or if there is a folder whose name or content is unmistakable.
    divided = any(split_of(name) == "train" and folder_names(root / name) for name in named)
    if len(named) == len(present) or divided or {"val", "validation"} & {name.lower() for name in named}:
        folders = split_folders(root, named)
        # Test images are often published without labels.
        return {split: folder for split, folder in folders.items() if split != "test" or folder_names(folder)}
    if resembles_splits(present):
        raise RMTError(
            f"{root}: {preview(present)} look like splits, and would be taken as classes; name them train, val or test "
            "with a folder for each class inside, or, if they are classes, otherwise"
        )
    return {"train": root}


def unused_beside(data: str) -> list[str]:
    """What lies beside the splits and is not used: folders of an image folder, or shards that are in no split.

    Shards that are named like no split are not used beside others that are, nor are tars beside parquet shards.
    """
    parts = _parts(data, needs_train=False).values()
    if shards := {shard for part in parts if not isinstance(part, Path) for shard in part}:
        there = ((folder, file) for folder, files in _shard_folders(data).items() for file in files)
        unused = ((folder, file.name) for folder, file in there if file.name.endswith(_SHARDS) and file not in shards)
        return sorted(f"{folder}/{name}".lstrip("/") for folder, name in unused)
    root = Path(data).expanduser()
    if not all(isinstance(part, Path) and part.is_dir() and part != root for part in parts):
        return []
    used = {part.relative_to(root).parts[0] for part in parts if isinstance(part, Path)}
    return [name for name in folder_names(root) if name not in used]


def folders_in_every_class(data: str) -> list[str]:
    """The folders inside the class folders of an image folder if these have the same two or more: perhaps the classes.

    As in `fold1/cat`, `fold1/dog`, `fold2/cat` and so on, whose classes are `fold1` and `fold2`.
    """
    part = None if is_url(data) else _parts(data, needs_train=False).get("train")
    if not isinstance(part, Path) or not part.is_dir():
        return []
    first, *others = class_folders(part)
    inside = folder_names(part / first)
    return inside if len(inside) > 1 and all(folder_names(part / name) == inside for name in others) else []


def _refuse_splits_in_classes(root: Path, classes: Sequence[str]) -> None:
    """Raises RMTError for CLASS/train and CLASS/test, which would be mixed, and for images beside labels or masks."""
    if len(classes) > 1 and all(name.lower() in _NO_CLASSES for name in classes):
        folders = ", ".join(f"{name}/" for name in classes)
        text = f"{folders} are no folders of classes; `rmt check {root}` says which recipe takes these data"
        raise RMTError(f"{root}: {text}")
    inside = [{split_of(name) for name in folder_names(root / name)} - {None} for name in classes[:_PROBED]]
    if len(classes) > 1 and all("train" in splits and len(splits) > 1 for splits in inside):
        example = f"{classes[0]}/{folder_names(root / classes[0])[0]}"
        raise RMTError(f"{root}: the splits are inside the class folders ({example}); expected train/{classes[0]}")


def _open(part: _Source, buffer: int | None) -> FolderSet | TableSet | ShardSet:
    if not isinstance(part, Path):
        return ShardSet(part, buffer=buffer)
    return TableSet(part) if part.is_file() and part.suffix.lower() == ".csv" else FolderSet(part)


def _open_auto(part: _Source) -> FolderSet | TableSet | ShardSet:
    return _open(part, BUFFER if _streams([part], "auto") else None)


def _streams(parts: Collection[_Source], stream: str) -> bool:
    if stream not in ("auto", "yes", "no"):
        raise RMTError(f"--stream must be auto, yes or no, not {stream!r}")
    sets = [part for part in set(parts) if not isinstance(part, Path)]
    return bool(sets) and (stream == "yes" or (stream == "auto" and not fit_disk(sets)))


def _parts(data: str, needs_train: bool = True) -> Mapping[Split, _Source]:
    """Where the splits of `data` are: `train`, and `val` and `test` if there are such."""
    if not data:  # Path("") would be the current folder
        raise RMTError("no data given; name an image folder, a folder of parquet shards, or sample")
    parts: Mapping[Split, _Source] = _shards_by_split(data, _shard_folders(data))
    if not parts and is_url(data):
        raise RMTError(f"{data}: no parquet shards and no tars there; other data can only be read from a folder")
    if not parts:
        root = Path(data).expanduser()
        parts = _tables(root) or class_split_folders(root)
    if needs_train and "train" not in parts:
        there = "validation" if "val" in parts else "test"
        raise RMTError(f"{data}: a {there} split but no training split; expected a folder train/ beside it")
    return parts


def _tables(root: Path) -> dict[Split, Path]:
    """The CSV files of the splits, unless the images are in class folders."""
    has_classes = any(split_of(name) == "train" and folder_names(root / name) for name in folder_names(root))
    return {} if has_classes else table_files(root)


def _shard_folders(data: str) -> Mapping[str, Sequence[Shard]]:
    """The files in the folder of the data (""), and in those of its folders that may have shards."""
    folders: dict[str, list[Shard]] = {}
    if is_url(data):
        for file in list_folder(data):
            inside = file.url.removeprefix(data.rstrip("/") + "/")
            folders.setdefault(inside.rpartition("/")[0], []).append(file)
        return folders
    root = SAMPLE if data == "sample" else Path(data).expanduser()
    require_folder_access(root)
    names = ("", "data", *(name for name in folder_names(root) if split_of(name)))
    return {name: sorted((root / name).glob("*")) for name in names}


def _shards_by_split(where: str, folders: Mapping[str, Sequence[Shard]]) -> dict[Split, tuple[Shard, ...]]:
    """The shards of each split, by their names or that of their folder; all are `train` if no name says otherwise.

    `folders` has the files in the folder of the data (""), and in its folders `data` and those named like a split.
    """
    named: dict[str, list[Shard]] = {}  # by the word that says the split; "" if none does
    for folder, files in folders.items():
        for shard in _shards_among(files):
            word = folder if split_of(folder) else re.split(r"[-_.]", shard.name)[0]
            if split_of(word) or folder in ("", "data"):
                named.setdefault(word if split_of(word) else "", []).append(shard)
    words = by_split(named, where)
    parts: dict[Split, tuple[Shard, ...]] = {split: tuple(named[word]) for split, word in words.items()}
    if not parts and "" in named:
        parts["train"] = tuple(named[""])
    for shards in parts.values():
        check_complete(shards)
    return parts


def _shards_among(files: Sequence[Shard]) -> list[Shard]:
    """The parquet shards among some files, or the WebDataset tars if there are none."""
    parquet, tars = ([file for file in files if file.name.endswith(kind)] for kind in _SHARDS)
    return parquet or tars


def _with_same_classes(data: str, train: ImageSet, other: ImageSet, split: Split) -> ImageSet:
    """The other split with labels that refer to the classes of train: shards may list the same ones in another order.

    Raises RMTError if the splits have different classes.
    """
    ours, theirs = set(train.classes), set(other.classes)
    only = {"train": ours - theirs, split: theirs - ours}
    if wrong := [f"{preview(sorted(names))} only in {part}" for part, names in only.items() if names]:
        raise RMTError(f"{data}: train and {split} have different classes: {'; '.join(wrong)}")
    return with_classes(other, train.classes)
