"""Images with boxes and masks, with random access; the same for every layout of files (see `layouts`)."""

import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rmt.data.detection import rle
from rmt.data.detection.table import BAD_MASK, BAD_SIZE, MASK_ELSEWHERE, UNUSED, ObjectTable, Problems
from rmt.data.files import size_on_disk
from rmt.data.images import BadImage, read_image, read_orientation, read_size
from rmt.data.sets import class_indices, hold_out_mask, preview
from rmt.errors import RMTError

_TURNED_BACK = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
"""EXIF orientation -> what undoes the rotation that it asks for."""

BAD_FILE = "annotation file that cannot be read"
NO_FILE = "image whose file is missing"
NO_MASK = "object without a mask"
EMPTY = "image without an object"


class Source(NamedTuple):
    """One split as read: the folder that file names refer to, what messages call the annotations, and the objects."""

    folder: Path
    annotations: Path
    table: ObjectTable


def usable_files(files: Iterable[Any], root: Path, images: list[dict[str, Any]], problems: Problems) -> Iterator[Any]:
    """Yields the annotation files of images that can be used, and appends their records to `images`.

    Height and width are those that the file states, or else the image has. What is wrong with a file is counted.
    """
    for file in files:
        for kind, origin in file.faults:
            problems.add(kind, origin)
        if any(kind == BAD_FILE for kind, _ in file.faults):
            continue
        if file.image is None:
            problems.add(NO_FILE, file.name)
            continue
        try:
            height, width = file.size or read_size(root / file.image)
        except BadImage as error:
            problems.add(BAD_SIZE, f"{file.image} ({error.reason})")
            continue
        images.append({"id": len(images) + 1, "file_name": file.image, "height": height, "width": width})
        yield file


@dataclass(frozen=True)
class Objects:
    """The objects of one image, without crowd regions."""

    boxes: np.ndarray  # (n, 4) float32: left, top, right, bottom in pixels, clipped to the image
    labels: np.ndarray  # (n,) int64
    masks: np.ndarray | None  # (n, height, width) uint8, or None if the set is opened without masks


@dataclass(frozen=True)
class DetectionSet:
    """Images with their objects, or some of the images; see `open_set`."""

    folder: Path
    table: ObjectTable
    classes: tuple[str, ...]  # label k is classes[k]; not always in the order of the file
    with_masks: bool
    usable: np.ndarray  # (M,) bool: the objects of the table that are used
    indices: np.ndarray  # (N,) int64: positions of the images in the table
    dropped: Counter[str]  # number of images skipped, by reason

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def skipped(self) -> Mapping[str, int]:
        """Number of images and objects skipped when the set was opened, by reason."""
        return self.table.problems.counts() | self.dropped

    @property
    def notes(self) -> list[str]:
        """The same as text, one line per reason, with examples."""
        left_out = [f"{self.table.problems.source}: {n:,} × {kind}, skipped" for kind, n in self.dropped.items()]
        return self.table.problems.lines() + left_out

    @property
    def shapes(self) -> str:
        """What the objects are trained by, in words."""
        return "with masks" if self.with_masks else "boxes only"

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) int64: height and width of each image, in pixels."""
        return self.table.sizes[self.indices]

    @property
    def groups(self) -> np.ndarray:
        """(N,) int64: 0 for portrait images, 1 for landscape; a batch of one group needs little padding."""
        return (self.sizes[:, 1] >= self.sizes[:, 0]).astype(np.int64)

    @property
    def image_ids(self) -> np.ndarray:
        """(N,) int64: the ids of the images in the file."""
        return self.table.image_ids[self.indices]

    @property
    def category_ids(self) -> list[int | None]:
        """The file's category id of each of `classes`; None for a class that the file does not have."""
        id_of = dict(zip(self.table.classes, self.table.category_ids.tolist(), strict=True))
        return [id_of.get(name) for name in self.classes]

    def class_counts(self) -> dict[str, int]:
        """The number of objects of each class in these images, without crowd regions."""
        kept = self._object_images() >= 0
        labels = class_indices(self.table.classes, self.classes)[self.table.labels[kept]]
        return dict(zip(self.classes, np.bincount(labels, minlength=len(self.classes)).tolist(), strict=True))

    def class_images(self) -> dict[str, int]:
        """The number of these images that show each class, not counting crowd regions."""
        kept = self._object_images()
        pairs = np.unique(np.stack([kept, self.table.labels])[:, kept >= 0], axis=1)  # (image, label), each once
        counts = np.bincount(pairs[1], minlength=len(self.table.classes))
        number = dict(zip(self.table.classes, counts.tolist(), strict=True))
        return {name: number.get(name, 0) for name in self.classes}

    def name(self, index: int) -> str:
        return str(self.folder / str(self.table.files[self.indices[index]]))

    def facts(self, index: int) -> tuple[str, str]:
        """The name of the image in the annotations, and its size on disk with a checksum of its objects."""
        position = int(self.indices[index])
        objects = slice(*self.table.starts[position : position + 2].tolist())
        parts = (self.table.boxes, self.table.labels, self.table.crowd)
        checksum = zlib.crc32(b"".join(part[objects].tobytes() for part in parts))
        return str(self.table.files[position]), f"{size_on_disk(self.name(index))} {checksum:08x}"

    def load(self, index: int) -> Image.Image:
        """Image number `index`, upright 8-bit RGB. Raises `BadImage`, also for another size than in the annotations."""
        image = read_image(Path(self.name(index)), self.name(index))
        height, width = self.table.sizes[self.indices[index]].tolist()
        if image.size == (height, width) != (width, height):
            # The annotations may have been made on the photo as stored, without the rotation that EXIF states.
            turn_back = _TURNED_BACK.get(read_orientation(self.name(index)))
            image = image if turn_back is None else image.transpose(turn_back)
        if image.size != (width, height):
            sizes = f"{image.width}×{image.height} pixels, the annotations say {width}×{height}"
            raise BadImage(self.name(index), sizes)
        return image

    def objects_of(self, index: int) -> np.ndarray:
        """(n,) int64: the positions in the table of the objects of image number `index`, without crowd regions."""
        numbers = self._objects_of(int(self.indices[index]))
        return numbers[~self.table.crowd[numbers]]

    def objects(self, index: int) -> Objects:
        """The objects of image number `index`, for training: boxes clipped to the image, no crowd regions."""
        position, numbers = int(self.indices[index]), self.objects_of(index)
        height, width = self.table.sizes[position].tolist()
        corners = self.table.boxes[numbers].copy()  # (n, 4): x, y, width, height
        corners[:, 2:] += corners[:, :2]
        corners = corners.clip(0, [width, height, width, height]).astype(np.float32)
        masks = None
        if self.with_masks:
            masks = np.zeros((len(numbers), height, width), dtype=np.uint8)
            for row, number in enumerate(numbers.tolist()):
                masks[row] = rle.decode(self.table.segmentation(number), height, width)
        labels = class_indices(self.table.classes, self.classes)[self.table.labels[numbers]]
        return Objects(corners, labels, masks)

    def ground_truth(self, positions: Sequence[int] | None = None) -> dict[str, Any]:
        """The images (all, or those at `positions`) with all objects, crowd regions too, as a COCO-format dictionary.

        Boxes, areas and ids are those of the file, so that the evaluation gives the same result as for the file.
        """
        chosen = self.indices if positions is None else self.indices[list(positions)]
        table, images, annotations = self.table, [], []
        for position in chosen.tolist():
            height, width = table.sizes[position].tolist()
            number = int(table.image_ids[position])
            images.append({"id": number, "file_name": str(table.files[position]), "height": height, "width": width})
            for item in self._objects_of(position).tolist():
                annotation = {
                    "id": item + 1,  # never 0, which the COCO evaluation takes for "no match"
                    "image_id": number,
                    "category_id": int(table.category_ids[table.labels[item]]),
                    "bbox": table.boxes[item].tolist(),
                    "area": float(table.areas[item]),
                    "iscrowd": int(table.crowd[item]),
                }
                if self.with_masks:
                    annotation["segmentation"] = table.segmentation(item)
                annotations.append(annotation)
        pairs = zip(table.category_ids.tolist(), table.classes, strict=True)
        categories = [{"id": number, "name": name} for number, name in pairs]
        return {"info": {}, "images": images, "annotations": annotations, "categories": categories}

    def with_classes(self, classes: Sequence[str]) -> "DetectionSet":
        """The set with labels that refer to `classes`, matched by name. Raises `RMTError` that names unknown ones."""
        class_indices(self.table.classes, classes, f"{self.table.problems.source} has")
        return replace(self, classes=tuple(classes))

    def subset(self, numbers: Sequence[int] | np.ndarray) -> "DetectionSet":
        """The images of these numbers, in that order."""
        return replace(self, indices=self.indices[np.asarray(numbers, dtype=np.int64)])

    def hold_out(self, fraction: float, seed: int) -> "tuple[DetectionSet, DetectionSet]":
        """(rest, held): `held` has a random fraction of the images; both keep the order. Raises `RMTError`."""
        remedy = "add a validation split (with --annotations: --val-annotations)"
        held = hold_out_mask(len(self), fraction, seed, self.table.problems.source, remedy)
        return replace(self, indices=self.indices[~held]), replace(self, indices=self.indices[held])

    def without_empty(self) -> "DetectionSet":
        """The images with at least one object, not counting crowd regions. Raises `RMTError` if there is none."""
        full = np.isin(self.indices, self._object_images())
        if not full.any():
            kinds = [f"{count:,} × {kind}" for kind, count in self.skipped.items() if kind != UNUSED]
            reasons = f" ({'; '.join(kinds)})" if kinds else ""
            raise RMTError(f"{self.table.problems.source}: no image shows an object{reasons}")
        dropped = self.dropped + Counter({EMPTY: int((~full).sum())})  # + drops zeros
        return replace(self, indices=self.indices[full], dropped=dropped)

    def _object_images(self) -> np.ndarray:
        """(M,) int64: the table's position of the image of each object that is trained on; −1 for other objects."""
        images = np.repeat(np.arange(len(self.table.files)), np.diff(self.table.starts))
        kept = self.usable & ~self.table.crowd & np.isin(images, self.indices)
        return np.where(kept, images, -1)

    def _objects_of(self, position: int) -> np.ndarray:
        """Positions of the usable objects of an image in the table."""
        start, end = self.table.starts[position : position + 2]
        return start + np.flatnonzero(self.usable[start:end])


def open_set(source: Source, *, with_masks: bool, crowd_as_objects: bool = False) -> DetectionSet:
    """The images of `source` whose files exist, with all their objects; with `crowd_as_objects` crowd regions are such.

    Images whose file is missing are skipped, and with `with_masks` also objects without a usable mask; all are counted.
    Raises `RMTError` if there is no image, or no usable mask.
    """
    images, annotations, table = source
    if crowd_as_objects:
        table = replace(table, crowd=np.zeros_like(table.crowd))
    if len(set(table.classes)) < len(table.classes):
        twice = [name for name in set(table.classes) if table.classes.count(name) > 1]
        raise RMTError(f"{annotations}: categories of the same name: {preview(sorted(twice))}")
    present = _present(images, table)
    if not present.any():
        raise RMTError(f"{images}: no image of {len(present):,} that {annotations.name} lists is there")
    usable = table.has_masks if with_masks else np.ones(len(table.labels), dtype=bool)
    counts = table.problems.counts()
    bad = counts.get(BAD_MASK, 0) + counts.get(MASK_ELSEWHERE, 0)
    if len(usable) and not usable.any():
        kind = "no usable masks" if bad else "no masks"
        raise RMTError(f"{annotations} has {kind}: train a detector without them (--no-masks)")
    dropped = +Counter({NO_MASK: int((~usable).sum()) - bad}) if with_masks else Counter()  # + drops zeros
    return DetectionSet(images, table, table.classes, with_masks, usable, np.flatnonzero(present), dropped)


def _present(images: Path, table: ObjectTable) -> np.ndarray:
    """(N,) bool: which files exist; each folder is listed once, which is faster than 100,000 calls of `stat`."""

    @cache
    def listing(parent: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(images / parent))
        except OSError as error:
            if not parent:
                raise RMTError(f"{images}: the image folder cannot be read ({error.strerror})") from None
            return frozenset()

    present = np.array([os.path.basename(file) in listing(os.path.dirname(file)) for file in table.files.tolist()])
    for file in table.files[~present].tolist():
        table.problems.add(NO_FILE, file)
    return present
