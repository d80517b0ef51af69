"""Image folders: one folder per class, with images at any depth inside."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rmt.data.files import is_folder, size_on_disk, valid_name
from rmt.data.images import EXTENSIONS, read_bytes, read_image
from rmt.data.sets import preview
from rmt.data.split_names import folder_names
from rmt.errors import RMTError

_EXTENSIONS = frozenset(extension.encode() for extension in EXTENSIONS)


class ImageFiles:
    """Labelled image files; see `ImageSet`. Subclasses set the attributes, `_paths` to bytes relative to `root`."""

    root: Path
    classes: tuple[str, ...]
    skipped: dict[str, int]
    labels: np.ndarray
    _paths: np.ndarray  # not a million strings: forked workers share it, because it has no reference counts inside

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """The file of image number `index`."""
        return self.root / os.fsdecode(self._paths[index])

    def load(self, index: int) -> Image.Image:
        return read_image(self.path(index))

    def source(self, index: int) -> bytes:
        return read_bytes(self.path(index), self.name(index))

    def name(self, index: int) -> str:
        return str(self.path(index))

    def facts(self, index: int) -> tuple[str, str]:
        name = os.fsdecode(self._paths[index])
        return name, size_on_disk(os.path.join(self.root, name))


class FolderSet(ImageFiles):
    """The images below `root/CLASS/`, with classes and files in sorted order.

    Hidden files and folders (with a leading dot), files without the extension of an image and images outside the class
    folders are skipped and counted in `skipped`.

    Raises:
        RMTError: the folder is missing, unreadable or empty, there is only one class, or a class has no image.
    """

    def __init__(self, root: Path):
        self.root = root
        skipped: Counter[str] = Counter()
        folders = class_folders(root, skipped)
        self.classes = tuple(valid_name(name) for name in folders)
        if len(set(self.classes)) < len(self.classes):  # one of them has the escape of another's byte in its name
            twice = sorted(name for name in set(self.classes) if self.classes.count(name) > 1)
            raise RMTError(f"{root}: class folders that are shown by the same name, rename one: {preview(twice)}")
        if len(self.classes) < 2:
            inner = root / folders[0]
            hint = f"; did you mean {inner}?" if len(folder_names(inner)) > 1 else ""
            raise RMTError(f"{root}: only one class folder ({self.classes[0]}); a classifier needs two or more{hint}")
        prefix = os.path.join(os.fsencode(root), b"")
        files = [sorted(_image_files(prefix + os.fsencode(name), skipped)) for name in folders]
        self.skipped = dict(skipped)
        if empty := [name for name, found in zip(self.classes, files, strict=True) if not found]:
            raise RMTError(f"{root}: no image in the class folder {preview(empty)}; remove the folder or fill it")
        self.labels = np.repeat(np.arange(len(files), dtype=np.int64), [len(found) for found in files])
        self._paths = np.array([path.removeprefix(prefix) for found in files for path in found])


def class_folders(root: Path, skipped: Counter[str] | None = None) -> tuple[str, ...]:
    """The sorted names of the class folders directly below `root`. Raises `RMTError` if there are none."""
    skipped = Counter() if skipped is None else skipped
    names = []
    for entry in _entries(os.fsencode(root)):
        if entry.name.startswith(b"."):
            skipped["hidden"] += 1
        elif is_folder(entry):
            names.append(os.fsdecode(entry.name))
        else:
            skipped["outside the class folders"] += 1
    if not names:
        raise RMTError(f"{root}: no class folder inside; expected CLASS/*.jpg, train/CLASS/*.jpg or *.parquet")
    return tuple(sorted(names))


def _image_files(folder: bytes, skipped: Counter[str]) -> Iterator[bytes]:
    """Every image file at any depth of `folder`; links to folders are followed, each folder is visited once."""
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        entries = _entries(here)
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        for entry in entries:
            if entry.name.startswith(b"."):
                skipped["hidden"] += 1
            elif is_folder(entry):
                waiting.append(entry.path)
            elif os.path.splitext(entry.name)[1].lower() in _EXTENSIONS:
                yield entry.path
            else:
                skipped["not an image"] += 1


def _entries(folder: bytes) -> list[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        reasons = {
            FileNotFoundError: "no such folder",
            NotADirectoryError: "a file, not a folder",
            PermissionError: "no permission to read this folder",
        }
        reason = reasons.get(type(error), f"cannot be read ({error.strerror})")
        raise RMTError(f"{os.fsdecode(folder)}: {reason}") from None
