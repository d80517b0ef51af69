"""Images for the check of an exported file and for calibration: from a folder of any layout, or of a data set."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from rmt.data.files import walk
from rmt.data.images import EXTENSIONS, BadImage, read_image
from rmt.data.sets import evenly_spread
from rmt.errors import RMTError


class Photos(Sequence[Image.Image]):
    """Images that are decoded whenever they are asked for: some hundred photos at full size exhaust the memory.

    Args:
        load: the image of an entry.
        entries: of images that can be read.
    """

    def __init__(self, load: Callable[[Any], Image.Image], entries: Sequence[Any]) -> None:
        self.load, self.entries = load, entries

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        chosen = self.entries[index]
        return Photos(self.load, chosen) if isinstance(index, slice) else self.load(chosen)


def folder_images(folder: Path, most: int, option: str) -> Photos:
    """At most `most` images of a folder and the folders in it, evenly spread, without those that cannot be read.

    Raises:
        RMTError: `option` FOLDER is no folder or has no readable image.
    """
    if not folder.is_dir():
        raise RMTError(f"{option} {folder}: there is no such folder")
    names = [Path(root, name) for root, _, files in walk(folder) for name in files]
    files = sorted(path for path in names if path.suffix.lower() in EXTENSIONS)
    found = _readable(files, most, read_image)
    if not found:
        raise RMTError(f"{option} {folder}: no readable image in it or in its folders")
    return found


def set_images(images: Any, most: int) -> Photos:
    """At most `most` images of a set (something with `load`), evenly spread, without those that cannot be read.

    Raises RMTError if none can be read."""

    def load(index: int) -> Image.Image:
        entry = images.load(index)
        return entry if isinstance(entry, Image.Image) else entry.image

    found = _readable(range(len(images)), most, load)
    if not found:
        raise RMTError("none of the images to check the exported file on could be read")
    return found


def _readable(all_of_them: Sequence[Any], most: int, load: Callable[[Any], Image.Image]) -> Photos:
    found = []
    for number in evenly_spread(len(all_of_them), most).tolist() if all_of_them else []:
        try:
            load(all_of_them[number])
        except BadImage:
            continue
        found.append(all_of_them[number])
    return Photos(load, found)
