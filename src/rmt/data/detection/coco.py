"""COCO: a JSON file that lists images, annotations and categories, and folders of such files.

An error: the file is not complete JSON, or not of this format; image, annotation or category ids are not unique. What
is wrong with single annotations is counted and named, see `table`.
"""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from rmt.data.detection.coco_records import mend_annotations, read_images, whole, without_roots
from rmt.data.detection.conventions import FORMS, NORMALIZED, id_question, option, read_boxes
from rmt.data.detection.dataset import Source
from rmt.data.detection.table import MANY_CROWDS, ObjectTable, Problems, pack
from rmt.data.files import MAX_JSON, read_file, subfolder
from rmt.data.sets import preview
from rmt.data.split_names import SPLITS, Split, split_folders, split_of
from rmt.errors import RMTError

ROBOFLOW = "_annotations.coco.json"
SINGLE = ("result.json", "annotations.json", "labels.json", "coco.json", "trainval.json")
"""Names of the file that Label Studio, labelme's script, FiftyOne and others write."""
_PARTS = ("images", "annotations", "categories")
_MANY_CROWDS = 0.5  # share of crowd regions above which they are probably objects


class CocoFiles:
    """A layout (see `layouts`) of COCO-format files: `splits` has the annotation file of each split, and `locate`
    returns (image folder, annotation file). `boxes` is the form of the boxes, see `conventions.read_boxes`."""

    name: str
    splits: Mapping[Split, str]
    locate: Callable[[Split], tuple[Path, Path]]

    def __init__(self, name: str, splits: Mapping[Split, str], locate: Callable[[Split], tuple[Path, Path]]):
        self.name, self.splits, self.locate = name, splits, locate
        self.boxes = "auto"

    @property
    def choices(self) -> list[str]:
        if self.boxes == "auto":
            return []
        unit = "shares of the sides" if self.boxes.startswith(NORMALIZED) else "pixels"
        form = FORMS[self.boxes.removeprefix(NORMALIZED)]
        return [f"boxes are read as {form} in {unit} (--boxes {option(self.boxes)})"]

    def read(self, split: Split, *, masks: bool = True) -> Source:
        images, annotations = self.locate(split)
        return Source(images, annotations, read_coco(annotations, images, masks=masks, boxes=self.boxes))


def named_files(name: str, parts: Mapping[Split, tuple[Path, Path]]) -> CocoFiles:
    """The layout of (image folder, annotation file) per split."""
    return CocoFiles(name, {split: str(annotations) for split, (_, annotations) in parts.items()}, parts.__getitem__)


def coco_layout(root: Path) -> CocoFiles | None:
    """The COCO files of a folder: as COCO is downloaded, or as Roboflow exports it; None if there are none.

    Raises `RMTError` for a folder `annotations` with JSON files of other names than COCO's.
    """
    folders = split_folders(root) or {"train": root}
    exported = {split: (folder, file) for split, folder in folders.items() if (file := folder / ROBOFLOW).is_file()}
    if exported:
        return named_files("COCO, as Roboflow exports it", exported)
    if single := {split: found for split, folder in folders.items() if (found := _single(folder)) is not None}:
        return named_files("COCO", single)
    annotations = root / "annotations"
    if not any(annotations.glob("*.json")):
        return None
    named = {split: files for split in SPLITS if (files := _instances(annotations, split))}
    places = {split: ", ".join(map(str, files)) for split, files in named.items()}
    return CocoFiles("COCO", places or {"train": str(annotations)}, partial(find_split, root))


def _single(folder: Path) -> tuple[Path, Path] | None:
    """(image folder, annotation file) of a file that tools write beside the folder of the images."""
    files = (folder / name for name in SINGLE)
    file = next((file for file in files if file.is_file() and _mentions_coco(file)), None)
    images = subfolder(folder, ("images", "jpegimages", "data", "image", "img", "imgs")) or folder
    return None if file is None else (images, file)


def _mentions_coco(file: Path) -> bool:
    """Whether a file has the words of COCO's format; it is not parsed, since it may be large."""
    with open(file, "rb") as opened, suppress(ValueError), mmap(opened.fileno(), 0, access=ACCESS_READ) as content:
        return all(content.find(f'"{part}"'.encode()) >= 0 for part in _PARTS)  # ValueError: an empty file
    return False


def find_split(root: Path, split: Split) -> tuple[Path, Path]:
    """(image folder, annotation file) of a split of a COCO folder: `train2017` and its `instances_train2017.json`.

    Raises `RMTError` if there is no such split, or several.
    """
    folder = root / "annotations"
    if not folder.is_dir():
        raise RMTError(
            f"{root}: no COCO folder, annotations/ is missing; other layouts: --images FOLDER --annotations FILE"
        )
    found = _instances(folder, split)
    if len(found) != 1:
        what = f"several files ({preview([file.name for file in found])})" if found else "no file"
        raise RMTError(f"{folder}: {what} called instances_{split}….json; name one: --annotations FILE --images FOLDER")
    return _image_folder(root, _part_name(found[0]), split), found[0]


def _instances(folder: Path, split: Split) -> list[Path]:
    """The annotation files of a split: `instances_train2017.json`, or CVAT's `instances_Train.json`; a single file of
    CVAT's, `instances_default.json`, is undivided data."""
    files = sorted(folder.glob("instances_*.json"))
    if split == "train" and [_part_name(file) for file in files] == ["default"]:
        return files
    return [file for file in files if split_of(re.sub(r"[-_]?\d{4}$", "", _part_name(file))) == split]


def _part_name(file: Path) -> str:
    return file.stem.removeprefix("instances_")


def _image_folder(root: Path, name: str, split: Split) -> Path:
    """The folder of the images of an annotation file: `train2017`, `images/Train`, or `images`."""
    images = root / "images"
    of_split = [split_folders(place).get(split) for place in (root, images)]
    candidates = [root / name, images / name, *of_split, images]
    return next((folder for folder in candidates if folder is not None and folder.is_dir()), root / name)


def read_coco(path: Path, folder: Path, *, masks: bool = True, boxes: str = "auto") -> ObjectTable:
    """Read and check a COCO-format JSON of images in `folder`, with `masks` also the masks.

    `boxes` is the form of the boxes, see `conventions.read_boxes`. Raises `RMTError` for the errors listed above.
    """
    content = _read_json(path)
    images, annotations, categories = (_records(content, part, path) for part in _PARTS)
    if not images or not categories:
        raise RMTError(f"{path}: lists no {'categories' if images else 'images'}")
    # Roboflow gives the file of every split the same name
    problems = Problems("/".join(path.parts[-2:]) if path.name.startswith("_annotations") else path.name)
    images, id_of = read_images(images, path, folder, problems)
    mend_annotations(annotations, id_of, problems)
    ids = {"image_id": id_of.values(), "category_id": [record["id"] for record in categories]}
    questions = [id_question(annotations, key, listed) for key, listed in ids.items()]
    if question := next(filter(None, [*questions, read_boxes(images, annotations, boxes)]), ""):
        raise RMTError(f"{path}: {question}")
    crowds = sum(annotation["iscrowd"] for annotation in annotations)
    if crowds > _MANY_CROWDS * len(annotations):
        problems.add(MANY_CROWDS, f"{crowds:,} of {len(annotations):,} annotations")
    return pack(images, annotations, without_roots(categories, annotations, problems), problems, masks=masks)


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(read_file(path, MAX_JSON))
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise RMTError(f"{path}: {reason}") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        where = f"at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "in its encoding"
        raise RMTError(f"{path}: not a complete JSON file (broken {where}); download or write it again") from None
    if not isinstance(content, Mapping):
        raise RMTError(f"{path}: not in COCO format: an object with images, annotations and categories is expected")
    return content


def _records(content: Mapping[str, Any], part: str, path: Path) -> list[dict[str, Any]]:
    records = content.get(part)
    if not isinstance(records, list):
        raise RMTError(f"{path}: not in COCO format: it has no list {part!r}")
    for number, record in enumerate(records):
        identity = whole(record.get("id")) if isinstance(record, dict) else None
        if identity is None:
            raise RMTError(f"{path}: {part}[{number}] must be an object whose id is a whole number")
        record["id"] = identity
    unique, counts = np.unique([record["id"] for record in records], return_counts=True)
    if (counts > 1).any():
        twice = preview([str(number) for number in unique[counts > 1]])
        raise RMTError(f"{path}: ids that occur more than once in {part}: {twice}; number them uniquely")
    return records
