"""YOLO: a text file per image, a line per object, `CLASS CX CY W H` or `CLASS X1 Y1 X2 Y2 X3 Y3 …`, in shares of the
sides of the image.

Read are a `data.yaml`, as Ultralytics and Roboflow write it; `images/{train,val}` beside `labels/{train,val}`;
`train/images` beside `train/labels`; and text files beside their images. An image without a text file has no object.
"""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmt.data.detection.coco_records import FileNames
from rmt.data.detection.dataset import Source
from rmt.data.detection.table import BAD_SIZE, NO_CATEGORY, NO_LABELS, Problems, pack
from rmt.data.detection.yolo_yaml import read_dataset_file
from rmt.data.files import files_below, has_files, read_lines, read_text, subfolder
from rmt.data.images import EXTENSIONS, BadImage, read_size
from rmt.data.split_names import Split, split_folders
from rmt.errors import RMTError
from rmt.terminal import plural

CLASS_LISTS = ("classes.txt", "obj.names", "labels.txt", "classes.names", "_darknet.labels")
BAD_LINE = "line that is neither CLASS CX CY W H nor a polygon"
IN_PIXELS = "line whose numbers are not shares from 0 to 1 (are they pixels?)"
BAD_LABELS = "label file that cannot be read"
MAX_BYTES = 16 * 2**20
"""Largest label file that is read."""
_SLACK = 0.5
"""Boxes may reach this share beyond the image, and are clipped; numbers beyond that are no shares."""


class YoloFolder:
    """A layout (see `layouts`) of YOLO labels: `places` has the image folders, or lists of images, of each split."""

    name = "YOLO"

    root: Path
    places: dict[Split, list[Path]]
    names: dict[int, str]
    names_from: Path | None
    keypoints: int

    def __init__(
        self,
        root: Path,
        places: dict[Split, list[Path]],
        names: dict[int, str],
        names_from: Path | None,
        keypoints: int = 0,
    ):
        self.root, self.places, self.names, self.names_from = root, places, names, names_from
        self.keypoints = keypoints
        self.splits: dict[Split, str] = {split: ", ".join(map(str, paths)) for split, paths in places.items()}

    @property
    def choices(self) -> list[str]:
        """What was decided about the folder, for the start of a run."""
        if self.names_from is None:
            return ["no class list (data.yaml or classes.txt): classes are called by their numbers"]
        left_out = ["keypoints are left out"] if self.keypoints else []
        return [f"classes as in {self.names_from}", *left_out]

    def read(self, split: Split, *, masks: bool = True) -> Source:
        where = self.places[split][0]
        problems = Problems(os.path.relpath(where, self.root) if where.is_relative_to(self.root) else str(where))
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        with_labels = 0
        for path in self._images(split):
            try:
                height, width = read_size(path)
            except BadImage as error:
                problems.add(BAD_SIZE, f"{path.name} ({error.reason})")
                continue
            shown = path.relative_to(self.root) if path.is_relative_to(self.root) else path
            images.append({"id": len(images) + 1, "file_name": str(shown), "height": height, "width": width})
            labels = label_file(path)
            if labels is None:
                problems.add(NO_LABELS, path.name)
                continue
            with_labels += 1
            for annotation in _objects(labels, height, width, self.keypoints, problems):
                annotations.append({**annotation, "id": len(annotations) + 1, "image_id": len(images)})
        if not images:
            raise RMTError(f"{where}: no image" + "".join(f"; {line}" for line in problems.lines()))
        if not with_labels:
            raise RMTError(f"{where}: no image of {len(images):,} has a label file; expected {_expected(where)}")
        categories = self._categories(annotations)
        known = {record["id"] for record in categories}
        for number in sorted({a["category_id"] for a in annotations} - known):
            lines = [a["origin"] for a in annotations if a["category_id"] == number]
            for origin in lines:
                problems.add(f"{NO_CATEGORY}, class number {number} of {plural(len(known), 'class')}", origin)
        annotations = [a for a in annotations if a["category_id"] in known]
        return Source(self.root, where, pack(images, annotations, categories, problems, masks=masks))

    def _categories(self, annotations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = self.names or {number: str(number) for number in sorted({a["category_id"] for a in annotations})}
        if not names:
            raise RMTError(f"{self.root}: no object in any label file")
        return [{"id": number, "name": name} for number, name in names.items()]

    def _images(self, split: Split) -> Iterator[Path]:
        for place in self.places[split]:
            if place.is_dir():
                yield from (place / name for name in files_below(place, EXTENSIONS))
                continue
            names = FileNames(self.root)
            for line in read_lines(place):
                nearby = (Path(line), place.parent / line, self.root / line)
                found = next((path for path in nearby if path.is_file()), None)
                if found is None and (inside := names.find(line)):  # CVAT writes data/obj_train_data/NAME
                    found = self.root / inside
                yield found or place.parent / line


def yolo_layout(root: Path, dataset_file: Path | None = None) -> YoloFolder | None:
    """The YOLO labels of a folder; None if it has none. Raises `RMTError` for a broken `data.yaml`."""
    described = read_dataset_file(root, dataset_file)
    places = described.places if described else {}
    if not places and not (places := _places(root)):
        return None
    names, names_from = (described.names, described.path) if described else ({}, None)
    if not names:
        names_from = _class_list(root)
        names = dict(enumerate(read_lines(names_from))) if names_from else {}
    return YoloFolder(root, places, names, names_from, described.keypoints if described else 0)


def label_file(image: Path) -> Path | None:
    """The label file of an image: in `labels/` in place of the last folder `images/` of its path, or beside it."""
    name = image.with_suffix(".txt")
    places = [i for i, part in enumerate(name.parts[:-1]) if part.lower() == "images"]
    swapped = (
        [Path(*name.parts[: places[-1]], labels, *name.parts[places[-1] + 1 :]) for labels in ("labels", "Labels")]
        if places
        else []
    )
    return next((path for path in (*swapped, name) if path.is_file()), None)


def _places(root: Path) -> dict[Split, list[Path]]:
    """The image folders of each split, without a `data.yaml`; of undivided data as "train"."""
    images, labels = subfolder(root, ("images",)), subfolder(root, ("labels",))
    if images and labels and files_below(labels, (".txt",)):
        return {split: [folder] for split, folder in split_folders(images).items()} or {"train": [images]}
    parts = {split: _image_folder(folder) for split, folder in split_folders(root).items()}
    if found := {split: [folder] for split, folder in parts.items() if folder}:
        return found
    folder = _image_folder(root) or subfolder(root, ("obj_train_data",))
    return {"train": [folder]} if folder else {}


def _image_folder(root: Path) -> Path | None:
    """`root/images` with `root/labels`, or `root` itself if label files lie beside its images."""
    images, labels = subfolder(root, ("images",)), subfolder(root, ("labels",))
    if images and labels and has_files(labels, ".txt"):
        return images
    if has_files(root, ".txt"):
        names = files_below(root, EXTENSIONS, deep=False)
        if any((root / name).with_suffix(".txt").is_file() for name in names):
            return root
    return None


def _class_list(root: Path) -> Path | None:
    folders = (root, root / "labels", root / "images", *split_folders(root).values())
    return next((path for folder in folders for name in CLASS_LISTS if (path := folder / name).is_file()), None)


def _objects(path: Path, height: int, width: int, keypoints: int, problems: Problems) -> Iterator[dict[str, Any]]:
    """The objects of a label file, in pixels of an image of this size; so many numbers after a box are left out."""
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            problems.add(BAD_LABELS, f"{path.name} ({size:,} bytes, the limit is {MAX_BYTES:,})")
            return
        lines = read_text(path).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        problems.add(BAD_LABELS, f"{path.name} ({getattr(error, 'strerror', None) or 'not text'})")
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        origin = f"{path.name} line {number}"
        try:
            label, *shares = (float(word) for word in line.split())
        except ValueError:
            label, shares = math.nan, []
        if keypoints and len(shares) == 4 + keypoints:  # which would otherwise pass for a polygon
            shares = shares[:4]
        polygon = len(shares) >= 6 and len(shares) % 2 == 0
        if not (label.is_integer() and 0 <= label < 2**31) or not (len(shares) == 4 or polygon):
            problems.add(BAD_LINE, origin)
        elif not all(-_SLACK <= share <= 1 + _SLACK for share in shares):  # also false for NaN
            problems.add(IN_PIXELS, origin)
        else:
            shape = _polygon(shares, height, width) if polygon else _box(shares, height, width)
            yield {"category_id": int(label), "origin": origin, **shape}


def _box(shares: list[float], height: int, width: int) -> dict[str, Any]:
    x, y, w, h = shares[0] * width, shares[1] * height, shares[2] * width, shares[3] * height
    return {"bbox": [x - w / 2, y - h / 2, w, h]}


def _polygon(shares: list[float], height: int, width: int) -> dict[str, Any]:
    """A polygon as COCO's segmentation, its bounding box, and its area by the shoelace formula."""
    xs, ys = [share * width for share in shares[0::2]], [share * height for share in shares[1::2]]
    doubled = sum(xs[i - 1] * ys[i] - xs[i] * ys[i - 1] for i in range(len(xs)))
    flat = [value for point in zip(xs, ys, strict=True) for value in point]
    box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
    return {"bbox": box, "segmentation": [flat], "area": abs(doubled) / 2}


def _expected(images: Path) -> str:
    return str(images).replace("images", "labels") + "/NAME.txt" if "images" in images.parts else f"{images}/NAME.txt"
