"""labelme: a JSON file per image with polygons, rectangles and circles in pixels, as the program saves them.

Files lie beside their images, or in a folder of their own (`imagePath` leads to the image); folders `train/`, `val/`,
`test/` divide them.
"""

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rmt.data.detection.coco_records import BACKGROUNDS, FileNames, stated_size
from rmt.data.detection.dataset import BAD_FILE, Source, usable_files
from rmt.data.detection.table import Problems, pack
from rmt.data.files import files_below, read_file
from rmt.data.split_names import Split, split_folders
from rmt.errors import RMTError

BAD_SHAPE = "shape that is no polygon, rectangle or circle with a label"
MAX_BYTES = 256 * 2**20
"""Largest JSON file that is read; the program writes the image into it, too."""
_PROBED = 5  # JSON files by which a folder is recognised
_CIRCLE = 32  # corners of the polygon for a circle


@dataclass
class _File:
    """One file, parsed: `objects` has (label, polygons) of each object."""

    name: str
    image: str | None = None
    size: tuple[int, int] | None = None
    objects: list[tuple[str, list[list[float]]]] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)


class LabelmeFolder:
    """A layout (see `layouts`) of labelme's files. Polygons of one label and group are one object."""

    name = "labelme"

    root: Path
    folders: dict[Split, Path]

    def __init__(self, root: Path, folders: dict[Split, Path]):
        self.root, self.folders = root, folders
        self.splits: dict[Split, str] = {split: str(folder) for split, folder in folders.items()}
        self._names = FileNames(root)

    @property
    def choices(self) -> list[str]:
        return ["classes in alphabetical order"]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """All labels of the files, in alphabetical order."""
        labels = {label for files in self._files.values() for file in files for label, _ in file.objects}
        if not labels:
            faults = [fault for files in self._files.values() for file in files for fault in file.faults]
            reason = f" ({': '.join(faults[0])})" if faults else ""
            raise RMTError(f"{self.root}: no object in any file of labelme{reason}")
        return tuple(sorted(labels))

    def read(self, split: Split, *, masks: bool = True) -> Source:
        where = self.folders[split]
        problems = Problems(os.path.relpath(where, self.root))
        number_of = {label: number for number, label in enumerate(self.classes)}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for file in usable_files(self._files[split], self.root, images, problems):
            for number, (label, polygons) in enumerate(file.objects, 1):
                made = {"id": len(annotations) + 1, "origin": f"{file.name}, object {number}", "image_id": len(images)}
                annotations.append({**made, "category_id": number_of[label], "segmentation": polygons})
        if not images:
            raise RMTError(f"{where}: no image can be used" + "".join(f"; {line}" for line in problems.lines()))
        for annotation in annotations:
            annotation["bbox"] = _bounds(annotation["segmentation"])
        categories = [{"id": number, "name": label} for label, number in number_of.items()]
        return Source(self.root, where, pack(images, annotations, categories, problems, masks=masks))

    @cached_property
    def _files(self) -> dict[Split, list[_File]]:
        return {split: list(self._read_folder(folder)) for split, folder in self.folders.items()}

    def _read_folder(self, folder: Path) -> Iterator[_File]:
        for name in files_below(folder, (".json",)):
            shown = os.path.relpath(folder / name, self.root)
            content = _load(folder / name)
            if isinstance(content, str):
                yield _File(shown, faults=[(BAD_FILE, f"{shown} ({content})")])
            elif is_labelme(content):
                yield self._parse(content, shown)

    def _parse(self, content: dict[str, Any], name: str) -> _File:
        stated = str(content["imagePath"]).replace("\\", "/")
        image = self._names.find(os.path.normpath(os.path.join(os.path.dirname(name), stated)))
        file = _File(name, image, stated_size(content.get("imageHeight"), content.get("imageWidth")))
        groups: dict[tuple[str, Any], list[list[float]]] = {}
        for number, shape in enumerate(content["shapes"], 1):
            label = shape.get("label") if isinstance(shape, dict) else None
            polygon = _polygon(shape) if isinstance(label, str) and label.strip() else None
            if polygon is None:
                file.faults.append((BAD_SHAPE, f"{name}, shape {number}"))
            elif str(label).strip("_").lower() not in BACKGROUNDS:
                group = shape.get("group_id")
                key = (str(label).strip(), group if isinstance(group, int) else f"shape {number}")
                groups.setdefault(key, []).append(polygon)
        file.objects = [(label, polygons) for (label, _), polygons in groups.items()]
        return file


def labelme_layout(root: Path) -> LabelmeFolder | None:
    """The labelme files of a folder; None if it has none."""
    divided = {split: folder for split, folder in split_folders(root).items() if _has_files(folder)}
    folders: dict[Split, Path] = divided or ({"train": root} if _has_files(root) else {})
    return LabelmeFolder(root, folders) if folders else None


def is_labelme(content: Any) -> bool:
    """Whether a JSON value is of the form that labelme saves."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list) and "imagePath" in content


def _has_files(folder: Path) -> bool:
    return any(is_labelme(_load(folder / name)) for name in files_below(folder, (".json",))[:_PROBED])


def _load(path: Path) -> Any:
    """The content of a JSON file, or why it cannot be read."""
    try:
        return json.loads(read_file(path, MAX_BYTES))
    except OSError as error:
        return error.strerror or "cannot be read"
    except (ValueError, RecursionError):
        return "not a complete JSON file"


def _polygon(shape: dict[str, Any]) -> list[float] | None:
    """The corners of a shape as x, y, x, y, …; None if it has none."""
    points, kind = shape.get("points"), shape.get("shape_type", "polygon")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        return None
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [x0, y0, x1, y0, x1, y1, x0, y1]
    if kind == "circle" and len(points) == 2:
        (x, y), radius = points[0], math.dist(*points)
        turns = [2 * math.pi * k / _CIRCLE for k in range(_CIRCLE)]
        return [value for turn in turns for value in (x + radius * math.cos(turn), y + radius * math.sin(turn))]
    if kind not in ("polygon", "rectangle") or len(points) < 3:
        return None
    return [value for point in points for value in point]


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list)
        and len(point) == 2
        and all(isinstance(value, int | float) and abs(value) < 1e9 for value in point)
    )


def _bounds(polygons: list[list[float]]) -> list[float]:
    xs, ys = ([value for polygon in polygons for value in polygon[start::2]] for start in (0, 1))
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
