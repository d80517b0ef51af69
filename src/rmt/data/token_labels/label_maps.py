"""Dense label maps on disk: the classes with the largest logits of a teacher at each position of each training image.

A folder holds `token-labels.json`, which describes the maps, and files `maps-00000-of-00013.safetensors`, each with the
maps of consecutive images:

- `scores`, float16 (n, h, w, k): the k largest logits, relative to a level at which the other classes have the logit 0;
- `classes`, int16 (n, h, w, k), or int32 if there are more than 32,767 classes: the classes of these;
- `sizes`, int32 (n, 2): width and height of each image in pixels; 0 for an image without a map, −1 if they are unknown.

A map covers the whole image, whatever its aspect ratio. The maps are in the order of the image set, so that maps made
from a folder also match shards that were packed from it in the same order.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rmt.data.files import read_text
from rmt.data.sets import ImageSet, Subset
from rmt.errors import RMTError

INDEX = "token-labels.json"
FORMAT = 2
"""Format 1, of earlier versions, has probabilities in the place of logits."""
TENSORS = ("scores", "classes", "sizes")
UNKNOWN_SIZE = -1
MAX_SIDE, MAX_TOP_K = 256, 100
"""Largest side of a map and most classes per cell that are accepted."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class LabelMapSpec:
    """Describes the maps of one folder: from which images and how they were made."""

    teacher: str
    weights: str  # name and SHA-256 of the teacher's file
    image_size: tuple[int, int]  # height and width to which every image was resized
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    num_classes: int
    grid: tuple[int, int]  # height and width of a map
    top_k: int
    images: int
    fingerprint: str  # of the image set, see `fingerprint`
    shard_images: int
    format: int = FORMAT

    @property
    def files(self) -> int:
        return -(-self.images // self.shard_images)

    def file_name(self, number: int) -> str:
        """The name of file `number`."""
        return f"maps-{number:05d}-of-{self.files:05d}.safetensors"

    def rows(self, number: int) -> range:
        """The images whose maps file `number` has."""
        return range(number * self.shard_images, min((number + 1) * self.shard_images, self.images))

    def empty(self, number: int) -> Arrays:
        """The arrays of file `number`, all 0."""
        rows, shape = len(self.rows(number)), (*self.grid, self.top_k)
        dtype = np.int16 if self.num_classes <= np.iinfo(np.int16).max else np.int32
        return {
            "scores": np.zeros((rows, *shape), np.float16),
            "classes": np.zeros((rows, *shape), dtype),
            "sizes": np.zeros((rows, 2), np.int32),
        }

    @property
    def bytes_per_image(self) -> int:
        """Size on disk, without the header of each file."""
        return sum(array[:1].nbytes for array in self.empty(0).values())

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, folder: Path) -> "LabelMapSpec":
        """Read the description. Raises RMTError if the folder has no maps that this version can read."""
        path = folder / INDEX
        try:
            values: dict[str, Any] = json.loads(read_text(path))
            values = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
            spec = cls(**values)
            possible = spec._is_possible()
        except FileNotFoundError:
            published = "" if next(folder.glob("*/*.pt"), None) is None else "; `--import` packs published maps (*.pt)"
            raise RMTError(
                f"{folder}: no label maps there (no {INDEX}); make them with `rmt token-labels`{published}"
            ) from None
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise RMTError(f"{path}: cannot be read as a description of label maps ({error})") from None
        if spec.format == 1:
            raise RMTError(
                f"{path}: these label maps were made by an earlier version and contain probabilities; training needs "
                "logits: make the maps again with `rmt token-labels`, in another folder"
            )
        if spec.format != FORMAT:
            raise RMTError(f"{path}: label maps of format {spec.format}; this version reads format {FORMAT}")
        if not possible:
            raise RMTError(f"{path}: its numbers cannot be those of label maps; make them again in another folder")
        return spec

    def _is_possible(self) -> bool:
        """Whether the numbers are integers in a range in which a file of maps can be read."""
        counts = (self.num_classes, *self.grid, self.top_k, self.images, self.shard_images)
        if (
            len(self.grid) != 2
            or len(self.image_size) != 2
            or not all(type(count) is int and 1 <= count < 2**31 for count in counts)
        ):
            return False
        return max(self.grid) <= MAX_SIDE and self.top_k <= min(self.num_classes, MAX_TOP_K)


def root_of(image_set: ImageSet) -> tuple[ImageSet, np.ndarray]:
    """The set of which `image_set` is a subset (or itself), and the index of each image in it: int64 (N,)."""
    root, indices = image_set, np.arange(len(image_set))
    while isinstance(root, Subset):
        indices, root = root.indices[indices], root.parent
    return root, indices


def fingerprint(root: ImageSet) -> str:
    """Hash of the classes and labels of a set, which does not depend on where and how the images are stored."""
    digest = hashlib.sha256(json.dumps(list(root.classes)).encode())
    digest.update(np.ascontiguousarray(root.labels, np.int64).tobytes())
    return digest.hexdigest()


def write_map_file(path: Path, arrays: Arrays) -> None:
    """Write a file with its checksum. Not atomic: write to a temporary path."""
    save_file(arrays, path, metadata={"sha256": _checksum(arrays)})


def _open(path: Path) -> Any:
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError("it is no file")
    return safe_open(path, framework="np")


def read_map_file(path: Path, spec: LabelMapSpec, number: int) -> Arrays:
    """Read a whole file. Raises RMTError if it is missing, truncated, altered, or does not match `spec`.

    The classes lie in 0…num_classes − 1, the scores are finite.
    """
    try:
        with _open(path) as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            stored = file.metadata() or {}
    except FileNotFoundError:
        raise RMTError(f"{path}: this file of the label maps is missing; `rmt token-labels` makes it again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise RMTError(f"{path}: not a complete file ({error}); `rmt token-labels` makes it again") from None
    shapes = {name: (array.shape, array.dtype) for name, array in spec.empty(number).items()}
    if {name: (array.shape, array.dtype) for name, array in arrays.items()} != shapes:
        raise RMTError(f"{path}: not the file that {INDEX} describes; remove it and run `rmt token-labels` again")
    if stored.get("sha256") != _checksum(arrays):
        raise RMTError(f"{path}: the checksum is wrong; remove it and run `rmt token-labels` again")
    classes, scores = arrays["classes"], arrays["scores"]
    if classes.min() < 0 or classes.max() >= spec.num_classes or not np.isfinite(scores).all():
        raise RMTError(f"{path}: it has impossible classes or scores; remove it and run `rmt token-labels` again")
    return arrays


def images_without_map(path: Path) -> int:
    """The number of images in a file that have no map."""
    try:
        with _open(path) as file:
            return int((file.get_tensor("sizes")[:, 0] == 0).sum())
    except (SafetensorError, OSError) as error:
        raise RMTError(f"{path}: cannot be read any more ({error})") from None


def _checksum(arrays: Arrays) -> str:
    digest = hashlib.sha256()
    for name in TENSORS:
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


class LabelMaps:
    """The maps of one folder, with random access, for `image_set` or a subset of the set that they were made from.

    Raises RMTError if the maps were made from other images, or with `verify` (about a second per GB) if a file is
    damaged.
    """

    def __init__(self, folder: str | Path, image_set: ImageSet, *, verify: bool = True):
        self.folder: Path = Path(folder).expanduser()
        self.spec: LabelMapSpec = LabelMapSpec.read(self.folder)
        root, self._indices = root_of(image_set)
        if self.spec.num_classes != len(root.classes):
            raise RMTError(
                f"{self.folder}: the teacher knew {self.spec.num_classes} classes, the images have {len(root.classes)}"
            )
        if (self.spec.images, self.spec.fingerprint) != (len(root), fingerprint(root)):
            raise RMTError(
                f"{self.folder}: these label maps were made from other images or another order of them "
                f"({self.spec.images:,} then, {len(root):,} now); make them from the data you train on"
            )
        if verify:
            for number in range(self.spec.files):
                read_map_file(self.folder / self.spec.file_name(number), self.spec, number)
        self._open: dict[int, Any] = {}
        self.available: np.ndarray = self._map_exists()[self._indices]
        """bool (N,): which of the images have a map."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}  # open files cannot be pickled

    def __len__(self) -> int:
        return len(self._indices)

    def load(self, index: int, size: tuple[int, int], name: str = "") -> tuple[np.ndarray, np.ndarray]:
        """The map of image number `index`: scores float16 (h, w, k) and classes (h, w, k).

        `size` is the width and height of the image. Raises RMTError if the map was made from another size.
        """
        number, row = divmod(int(self._indices[index]), self.spec.shard_images)
        file = self._file(number)
        width, height = file["sizes"][row : row + 1][0].tolist()
        if (width, height) != tuple(size) and width != UNKNOWN_SIZE:
            what = name or f"image {index}"
            if not width:
                raise RMTError(f"{what}: it could not be read when the label maps were made; make them again")
            raise RMTError(
                f"{what}: {size[0]}×{size[1]} pixels, but its label map was made from {width}×{height}: "
                f"the images changed, so make the maps in {self.folder} again"
            )
        return file["scores"][row : row + 1][0], file["classes"][row : row + 1][0]

    def _map_exists(self) -> np.ndarray:
        """bool (images,): which images of the whole set have a map."""
        widths = [self._file(number)["sizes"][:][:, 0] for number in range(self.spec.files)]
        self._open.clear()
        return np.concatenate(widths) != 0

    def _file(self, number: int) -> Any:
        if number not in self._open:
            path = self.folder / self.spec.file_name(number)
            try:
                file = _open(path)
            except (SafetensorError, OSError) as error:
                raise RMTError(f"{path}: cannot be read any more ({error})") from None
            self._open[number] = {key: file.get_slice(key) for key in TENSORS}
        return self._open[number]


def incomplete_files(folder: Path, spec: LabelMapSpec, numbers: range | list[int]) -> tuple[list[int], list[str]]:
    """Which of the files still have to be made, and one line for each that exists but is damaged."""
    missing, complaints = [], []
    for number in numbers:
        path = folder / spec.file_name(number)
        try:
            read_map_file(path, spec, number)
        except RMTError as error:
            missing.append(number)
            if path.exists():
                complaints.append(re.sub(r"; [^;]*$", "", str(error)))
    return missing, complaints
