"""Pascal VOC: an XML file per image, and lists of the images of each split.

Read are `Annotations/*.xml` beside `JPEGImages/` (or `images/` and the like), divided by the lists in `ImageSets/Main`
(`train.txt`, `val.txt`, `test.txt`); folders `train/`, `val/`, `test/` of images and XML files; and XML files beside
their images, as LabelImg writes them.
"""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from rmt.data.detection.coco_records import stated_size
from rmt.data.detection.dataset import BAD_FILE, Source, usable_files
from rmt.data.detection.table import DIFFICULT, NO_CATEGORY, Problems, pack
from rmt.data.detection.xml_file import BadXml, read_xml
from rmt.data.files import files_below, has_files, images_by_stem, read_lines, subfolder
from rmt.data.sets import preview
from rmt.data.split_names import SPLITS, Split, by_split, split_folders
from rmt.errors import RMTError
from rmt.terminal import plural

ANNOTATIONS = ("annotations", "annotation", "xml", "xmls", "labels")
IMAGES = ("jpegimages", "images", "image", "img", "imgs")
CLASS_LISTS = ("classes.txt", "labels.txt", "predefined_classes.txt")
NO_BOX = "object without a name or a box"
NO_XML = "listed image without an annotation file"


@dataclass(frozen=True)
class Part:
    """A folder of annotation files and the folder of their images; they are paired by name."""

    annotations: Path
    images: Path

    @property
    def deep(self) -> bool:
        """Whether the folders below belong to it: not where images and annotations lie in one folder."""
        return self.annotations != self.images


@dataclass(frozen=True)
class _File:
    """One annotation file, parsed."""

    name: str  # for messages
    image: str | None  # the image file, relative to the root
    size: tuple[int, int] | None  # height, width, as the file states them
    objects: list[tuple[str, bool, tuple[float, float, float, float]]]  # name, difficult, corners as in the file
    faults: list[tuple[str, str]] = field(default_factory=list)  # kind, where


class VocFolder:
    """A layout (see `layouts`) of VOC annotations.

    Boxes are pixel numbers that start at 1 and include their last pixel, unless a coordinate of the folder is smaller
    than 1 or not a whole number: then all are plain coordinates. Objects marked difficult become crowd regions, which
    are not trained on and neither count as found nor as missed, as in VOC's evaluation.
    """

    name = "VOC"

    root: Path
    parts: dict[Split, Part]
    lists: dict[Split, Path]
    splits: dict[Split, str]

    def __init__(self, root: Path, parts: dict[Split, Part], lists: dict[Split, Path]):
        self.root, self.parts, self.lists = root, parts, lists
        if lists:
            self.splits = {split: str(path) for split, path in lists.items()}
        else:
            self.splits = {split: str(part.annotations) for split, part in parts.items()}

    def read(self, split: Split, *, masks: bool = True) -> Source:
        where = Path(self.splits[split])
        problems = Problems(os.path.relpath(where, self.root))
        label_of = {name: label for label, name in enumerate(self.classes)}
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for file in usable_files(self._files_of(split, problems), self.root, images, problems):
            for number, (name, difficult, corners) in enumerate(file.objects, 1):
                origin = f"{file.name}, object {number}"
                if name not in label_of:
                    problems.add(NO_CATEGORY, f"{origin} ({name})")
                    continue
                if difficult:
                    problems.add(DIFFICULT, origin)
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "origin": origin,
                        "image_id": len(images),
                        "category_id": label_of[name],
                        "bbox": self._box(corners),
                        "iscrowd": int(difficult),
                    }
                )
        if not images:
            raise RMTError(f"{where}: no image can be used" + "".join(f"; {line}" for line in problems.lines()))
        categories = [{"id": label, "name": name} for name, label in label_of.items()]
        return Source(self.root, where, pack(images, annotations, categories, problems, masks=masks))

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Those of a class list in the folder; else all names in the annotation files, in alphabetical order."""
        if self._class_list is not None:
            return tuple(dict.fromkeys(read_lines(self._class_list)))
        names = {name for files in self._files.values() for file in files.values() for name, _, _ in file.objects}
        if not names:
            raise RMTError(f"{self.root}: no object in any annotation file{self._first_fault()}")
        return tuple(sorted(names))

    @property
    def choices(self) -> list[str]:
        """What was decided about the folder, for the start of a run."""
        order = f"as in {self._class_list}" if self._class_list else "in alphabetical order"
        start = "pixel numbers from 1" if self._one_based else "coordinates from 0"
        found = [f"classes {order}", f"boxes read as {start}"]
        if self.lists:
            (files,) = self._files.values()
            listed = {file.name for split in self.lists for file in self._files_of(split, Problems(""))}
            if self._train_has_val:
                found.append(
                    f"training images are those of {self.lists['train'].name} that {self.lists['val'].name} lacks"
                )
            if unlisted := len(files) - len(listed):
                found.append(f"{plural(unlisted, 'annotated image')} not used, named by no list")
        return found

    @property
    def _train_has_val(self) -> bool:
        """Whether the list of training images, `trainval.txt`, has those for validation, too."""
        return "val" in self.lists and "train" in self.lists and self.lists["train"].stem.lower() == "trainval"

    @cached_property
    def _class_list(self) -> Path | None:
        folders = [self.root, *(part.annotations for part in self.parts.values())]
        candidates = (folder / name for folder in folders for name in CLASS_LISTS)
        return next((path for path in candidates if path.is_file()), None)

    @cached_property
    def _one_based(self) -> bool:
        corners = [c for files in self._files.values() for file in files.values() for _, _, c in file.objects]
        return all(float(value).is_integer() and value >= 1 for box in corners for value in box)

    @cached_property
    def _files(self) -> dict[Split, dict[str, _File]]:
        """Every annotation file of each part, by stem."""
        return {split: dict(self._read_part(part)) for split, part in self.parts.items()}

    def _read_part(self, part: Part) -> Iterator[tuple[str, _File]]:
        images = images_by_stem(part.images, deep=part.deep)
        folder = os.path.relpath(part.images, self.root)
        where = os.path.relpath(part.annotations, self.root)
        for name in files_below(part.annotations, (".xml",), deep=part.deep):
            stem, shown = os.path.splitext(name)[0], os.path.normpath(os.path.join(where, name))
            try:
                yield stem, _parse(read_xml(part.annotations / name), shown, stem, images, folder)
            except BadXml as error:
                yield stem, _File(shown, None, None, [], [(BAD_FILE, f"{shown} ({error})")])

    def _files_of(self, split: Split, problems: Problems) -> Iterator[_File]:
        """The files of a split: those that its list names, or all of its part."""
        if not self.lists:
            yield from self._files[split].values()
            return
        left_out = set()
        if split == "train" and self._train_has_val:
            left_out = {file.name for file in self._files_of("val", Problems(""))}
        (files,) = self._files.values()
        for line in dict.fromkeys(read_lines(self.lists[split])):
            # "NAME", "NAME 1", "NAME.jpg"; a name may contain spaces and dots
            names = (line, line.split()[0], os.path.splitext(line)[0])
            file = next((files[name] for name in names if name in files), None)
            if file is None:
                problems.add(NO_XML, line)
            elif file.name not in left_out:
                yield file

    def _box(self, corners: tuple[float, float, float, float]) -> list[float]:
        """x, y, width, height in pixels from 0."""
        shift = 1.0 if self._one_based else 0.0
        left, top, right, bottom = corners
        return [left - shift, top - shift, right - left + shift, bottom - top + shift]

    def _first_fault(self) -> str:
        faults = [fault for files in self._files.values() for file in files.values() for fault in file.faults]
        return f" ({faults[0][0]}: {preview([where for _, where in faults])})" if faults else ""


def voc_layout(root: Path) -> VocFolder | None:
    """The VOC annotations of a folder; None if it has none."""
    for split_parts in (_parts_of_splits(root), _single_part(root)):
        if split_parts:
            return VocFolder(root, split_parts, _lists(root) if len(split_parts) == 1 else {})
    return None


def _single_part(root: Path) -> dict[Split, Part]:
    part = _part(root)
    return {"train": part} if part else {}


def _parts_of_splits(root: Path) -> dict[Split, Part]:
    parts = {split: _part(folder) for split, folder in split_folders(root).items()}
    return {split: part for split, part in parts.items() if part}


def _part(root: Path) -> Part | None:
    """The annotation and image folder directly below `root`, or `root` itself if it has XML files."""
    annotations = subfolder(root, ANNOTATIONS)
    if annotations is not None and files_below(annotations, (".xml",)):
        return Part(annotations, subfolder(root, IMAGES) or root)
    return Part(root, root) if has_files(root, ".xml") else None


def _lists(root: Path) -> dict[Split, Path]:
    """`ImageSets/Main/train.txt` and so on; `trainval.txt` is used for training if there is no `train.txt`.

    The images that `val.txt` names, too, are for validation then.
    """
    for folder in (root / "ImageSets" / "Main", root / "ImageSets"):
        files = {path.stem: path for path in sorted(folder.glob("*.[tT][xX][tT]"))}
        found = {split: files[name] for split, name in by_split(files, folder).items()}
        if "train" not in found:
            found.update(("train", path) for name, path in files.items() if name.lower() == "trainval")
        if found:
            return {split: found[split] for split in SPLITS if split in found}
    return {}


def _parse(root: Element, name: str, stem: str, images: dict[str, str], folder: str) -> _File:
    """An annotation file: `images` has the image files of `folder` by stem."""
    if root.tag != "annotation":
        raise BadXml(f"<{root.tag[:40]}> where <annotation> is expected")
    # The image has the name of the annotation file; a file that was renamed since still states the old one.
    stated = os.path.splitext((root.findtext("filename") or "").replace("\\", "/").rpartition("/")[2].strip())[0]
    image = images.get(stem) or images.get(stated)
    file = _File(name, os.path.normpath(os.path.join(folder, image)) if image else None, _stated_size(root), [])
    for number, item in enumerate(root.findall("object"), 1):
        label, box = (item.findtext("name") or "").strip(), item.find("bndbox")
        corners = [_number(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")] if box is not None else []
        if not label or len(corners) < 4 or not all(map(math.isfinite, corners)):
            file.faults.append((NO_BOX, f"{name}, object {number}"))
            continue
        difficult = (item.findtext("difficult") or "0").strip().lower() not in ("0", "false", "")
        file.objects.append((label, difficult, (corners[0], corners[1], corners[2], corners[3])))
    return file


def _stated_size(root: Element) -> tuple[int, int] | None:
    size = root.find("size")
    values = [_number(size.findtext(key)) for key in ("height", "width")] if size is not None else []
    return stated_size(*values) if len(values) == 2 else None


def _number(text: str | None) -> float:
    """A number in a file; NaN if it is none, or too large for a coordinate."""
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if abs(value) < 1e9 else math.nan
