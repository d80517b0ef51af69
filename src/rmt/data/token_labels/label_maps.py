"""Dense label maps on disk: the likeliest classes a teacher saw at each place of each training image.

A folder holds `token-labels.json`, which says what the maps are of, and shards `maps-00000-of-00013.safetensors`, each
with the maps of a run of consecutive images:

- `scores`, float16 (n, h, w, k): probabilities by the teacher's softmax over all classes, likeliest first;
- `classes`, int16 (n, h, w, k), or int32 where there are more than 32,767 classes: what they are probabilities of;
- `sizes`, int32 (n, 2): width and height of each image, 0 for one that could not be read.

A map covers the whole image whatever its shape. Images count in the order of their set, so the maps made from a folder
fit the shards that were packed from it in the same order.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from rmt.data.sets import ImageSet, Subset
from rmt.errors import RMTError

INDEX = "token-labels.json"
TENSORS = ("scores", "classes", "sizes")
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class LabelMapSpec:
    """What the maps of one folder are of and how they were made."""

    teacher: str
    weights: str  # name and SHA-256 of the teacher's file
    image_size: tuple[int, int]  # height and width that every image was resized to
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    num_classes: int
    grid: tuple[int, int]  # places of a map, down and across
    top_k: int
    images: int
    fingerprint: str  # of the labels, see `fingerprint`
    shard_images: int
    format: int = 1

    @property
    def files(self) -> int:
        return -(-self.images // self.shard_images)

    def file_name(self, number: int) -> str:
        """The file name of a shard."""
        return f"maps-{number:05d}-of-{self.files:05d}.safetensors"

    def rows(self, number: int) -> range:
        """The images whose maps a shard holds."""
        return range(number * self.shard_images, min((number + 1) * self.shard_images, self.images))

    def empty(self, number: int) -> Arrays:
        """Arrays for a shard, all 0."""
        rows, places = len(self.rows(number)), (*self.grid, self.top_k)
        kind = np.int16 if self.num_classes <= np.iinfo(np.int16).max else np.int32
        return {
            "scores": np.zeros((rows, *places), np.float16),
            "classes": np.zeros((rows, *places), kind),
            "sizes": np.zeros((rows, 2), np.int32),
        }

    @property
    def bytes_per_image(self) -> int:
        """On disk, without the few hundred bytes of each shard's header."""
        return sum(array[:1].nbytes for array in self.empty(0).values())

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "LabelMapSpec":
        """Raises RMTError when the folder holds no maps that this version can read."""
        path = folder / INDEX
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            about = cls(**values)
        except FileNotFoundError:
            raise RMTError(f"{folder}: no label maps there (no {INDEX}); make them with `rmt token-labels`") from None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RMTError(f"{path}: cannot be read as a description of label maps ({error})") from None
        if about.format != 1:
            raise RMTError(f"{path}: label maps of format {about.format}; this version reads format 1")
        return about


def root_of(image_set: ImageSet) -> tuple[ImageSet, np.ndarray]:
    """The set that `image_set` is a part of, or itself, and where in it each image lies: int64 (N,)."""
    root, places = image_set, np.arange(len(image_set))
    while isinstance(root, Subset):
        places, root = root.indices[places], root.parent
    return root, places


def fingerprint(root: ImageSet) -> str:
    """Tells one set from another by classes and labels, whatever folder or form it lies in."""
    digest = hashlib.sha256(json.dumps(list(root.classes)).encode())
    digest.update(np.ascontiguousarray(root.labels, np.int64).tobytes())
    return digest.hexdigest()


def write_map_file(path: Path, arrays: Arrays) -> None:
    """Write a shard with its checksum. Not atomic: give it a draft to rename."""
    save_file(arrays, path, metadata={"sha256": _checksum(arrays)})


def read_map_file(path: Path, about: LabelMapSpec, number: int) -> Arrays:
    """Read a whole shard. Raises RMTError when it is missing, cut off, altered, or not what `about` says."""
    try:
        arrays = load_file(path)
        with safe_open(path, framework="np") as file:
            stored: Mapping[str, str] = file.metadata() or {}
    except FileNotFoundError:
        raise RMTError(f"{path}: this shard of the label maps is missing; `rmt token-labels` makes it again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RMTError(f"{path}: not a whole shard ({error}); `rmt token-labels` makes it again") from None
    shapes = {name: (array.shape, array.dtype) for name, array in about.empty(number).items()}
    if {name: (array.shape, array.dtype) for name, array in arrays.items()} != shapes:
        raise RMTError(f"{path}: not the shard that {INDEX} describes; remove it and run `rmt token-labels` again")
    if stored.get("sha256") != _checksum(arrays):
        raise RMTError(f"{path}: the checksum is wrong; remove it and run `rmt token-labels` again")
    return arrays


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in TENSORS:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


class LabelMaps:
    """The maps of one folder, for the images of `image_set`, which may be a part of the set they were made from.

    Random access without reading a whole shard. Raises RMTError when maps and images do not belong together, or with
    `verify` (about a second per GB) when a shard is damaged.
    """

    def __init__(self, folder: str | Path, image_set: ImageSet, *, verify: bool = True):
        self.folder = Path(folder).expanduser()
        self.about = LabelMapSpec.read(self.folder)
        root, self._places = root_of(image_set)
        if self.about.num_classes != len(root.classes):
            raise RMTError(
                f"{self.folder}: the teacher knew {self.about.num_classes} classes, the images have {len(root.classes)}"
            )
        if (self.about.images, self.about.fingerprint) != (len(root), fingerprint(root)):
            raise RMTError(
                f"{self.folder}: these label maps were made from other images or another order of them "
                f"({self.about.images:,} then, {len(root):,} now); make them from the data you train on"
            )
        if verify:
            for number in range(self.about.files):
                read_map_file(self.folder / self.about.file_name(number), self.about, number)
        self._open: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # open files do not travel to other processes

    def __len__(self) -> int:
        return len(self._places)

    def load(self, index: int, size: tuple[int, int], name: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The map of image number `index`: scores float16 (h, w, k) and classes (h, w, k).

        `size` is the image's width and height now. Raises RMTError when they were others when the map was made.
        """
        number, row = divmod(int(self._places[index]), self.about.shard_images)
        shard = self._shard(number)
        width, height = shard["sizes"][row : row + 1][0].tolist()
        if (width, height) != tuple(size):
            what = name or f"image {index}"
            if not width:
                raise RMTError(f"{what}: it could not be read when the label maps were made; make them again")
            raise RMTError(
                f"{what}: {size[0]}×{size[1]} pixels, but its label map was made from {width}×{height}: "
                f"the images changed, so make the maps in {self.folder} again"
            )
        return shard["scores"][row : row + 1][0], shard["classes"][row : row + 1][0]

    def _shard(self, number: int) -> Any:
        if number not in self._open:
            path = self.folder / self.about.file_name(number)
            try:
                file = safe_open(path, framework="np")
            except (SafetensorError, OSError) as error:
                raise RMTError(f"{path}: cannot be read any more ({error})") from None
            self._open[number] = {key: file.get_slice(key) for key in TENSORS}
        return self._open[number]


def incomplete_files(folder: Path, about: LabelMapSpec, numbers: range | list[int]) -> tuple[list[int], list[str]]:
    """Which of the shards still have to be made, and one line on each that is there but damaged."""
    missing, complaints = [], []
    for number in numbers:
        path = folder / about.file_name(number)
        try:
            read_map_file(path, about, number)
        except RMTError as error:
            missing.append(number)
            if path.exists():
                complaints.append(re.sub(r"; [^;]*$", "", str(error)))
    return missing, complaints
