"""The records of a COCO-format file as tools write them, brought to one form: ids, sizes, names of files.

Ids and sizes may be floats or text, sizes may be absent, names of files may be absolute or of another system, and one
file may be listed under several ids.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from rmt.data.detection.table import CROWD_TEXT, MERGED, ROOT, Problems
from rmt.data.images import MAX_PIXELS, BadImage, read_size
from rmt.errors import RMTError

_LONGEST_NAME = 1024  # characters
BACKGROUNDS = ("background", "ignore")


def whole(value: Any) -> int | None:
    """A whole number that may be written as 3, 3.0 or "3"; None for anything else, and beyond 64 bits."""
    if isinstance(value, str) and re.fullmatch(r"-?\d{1,18}(\.0+)?", value.strip()):
        value = int(value.strip().partition(".")[0])
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63 else None


def read_images(
    records: Sequence[Mapping[str, Any]], path: Path, folder: Path, problems: Problems
) -> tuple[list[dict[str, Any]], dict[int, int]]:
    """The image records with names relative to `folder` and sizes; and for each id that under which its file is kept.

    Raises `RMTError`, which names the image, for one without a name or outside the folder, and for one whose size is
    neither given nor readable.
    """
    files, found, id_of = FileNames(folder), [], {}
    first: dict[str, dict[str, Any]] = {}
    for record in records:
        name = record.get("file_name")
        if not isinstance(name, str) or not name or "\0" in name:
            raise RMTError(f"{path}: image {record['id']} has no file_name")
        if len(name) > _LONGEST_NAME:  # the table has room for the longest one in every row
            raise RMTError(f"{path}: image {record['id']} has a file_name of {len(name):,} characters")
        file = files.resolve(name)
        if file is None:
            raise RMTError(f"{path}: image {record['id']} lies outside the image folder {folder} ({name[:200]})")
        kept = first.get(file)
        if kept is None:
            height, width = _size(record, path, folder / file)
            kept = first[file] = {"id": record["id"], "file_name": file, "height": height, "width": width}
            found.append(kept)
        else:
            problems.add(MERGED, name)
        id_of[record["id"]] = kept["id"]
    return found, id_of


def stated_size(height: Any, width: Any) -> tuple[int, int] | None:
    """(height, width) as annotations give them; None if no image that can be read has that size."""
    sides = whole(height), whole(width)
    if not sides[0] or not sides[1] or min(sides[0], sides[1]) < 0 or sides[0] * sides[1] > MAX_PIXELS:
        return None
    return sides[0], sides[1]


def _size(record: Mapping[str, Any], path: Path, file: Path) -> tuple[int, int]:
    if size := stated_size(record.get("height"), record.get("width")):
        return size
    try:
        return read_size(file)
    except BadImage as error:
        raise RMTError(
            f"{path}: image {record['id']} has no positive whole height and width, and its file cannot be read: {error}"
        ) from None


class FileNames:
    """Finds the files that a tool's names mean, always inside `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._listing = cache(self._list)

    def resolve(self, name: str) -> str | None:
        """The file relative to the folder. A plain name is kept even if there is no such file; others give None."""
        plain = os.path.normpath(name)
        inside = not os.path.isabs(name) and not plain.startswith("..")
        return self.find(name) or (plain if inside else None)

    def find(self, name: str) -> str | None:
        """The file relative to the folder, or None if there is none."""
        plain = os.path.normpath(name)
        if not os.path.isabs(name) and not plain.startswith("..") and self._exists(plain):
            return plain
        return next((file for file in self._candidates(name) if self._exists(file)), None)

    def _candidates(self, name: str) -> Iterator[str]:
        """What the name may mean: with the other system's separators, percent signs decoded, without its first folders.

        Label Studio writes addresses: /data/local-files/?d=folder/name.jpg.
        """
        for text in dict.fromkeys((name, unquote(name), unquote(name.rpartition("?d=")[2]))):
            parts = [part for part in text.replace("\\", "/").split("/") if part not in ("", ".", "..")]
            for start in range(len(parts)):
                yield os.path.join(*parts[start:])

    def _exists(self, file: str) -> bool:
        return os.path.basename(file) in self._listing(os.path.dirname(file))

    def _list(self, parent: str) -> frozenset[str]:
        try:
            return frozenset(os.listdir(self.folder / parent))
        except (OSError, ValueError):
            return frozenset()


def mend_annotations(records: Sequence[dict[str, Any]], id_of: Mapping[int, int], problems: Problems) -> None:
    """Give the annotations whole ids, those of the images that are kept, and crowd flags 0 or 1, in place."""
    for record in records:
        image, category = whole(record.get("image_id")), whole(record.get("category_id"))
        image = image if image is None else id_of.get(image, image)
        crowd = record.get("iscrowd")
        if isinstance(crowd, str):
            problems.add(CROWD_TEXT, f"annotation {record['id']}")
            crowd = crowd.strip().lower() not in ("", "0", "0.0", "false", "no")
        record["image_id"] = record.get("image_id") if image is None else image
        record["category_id"] = record.get("category_id") if category is None else category
        record["iscrowd"] = int(bool(crowd))


def without_roots(
    categories: Sequence[Mapping[str, Any]], annotations: Sequence[Mapping[str, Any]], problems: Problems
) -> list[Mapping[str, Any]]:
    """The categories but for those without an object that only head others, or are the background."""
    used = {record["category_id"] for record in annotations if isinstance(record["category_id"], int)}
    heads = {str(record.get("supercategory")) for record in categories if record["id"] in used}
    kept = []
    for record in categories:
        name = str(record.get("name", record["id"]))
        if record["id"] not in used and (name in heads or name.strip("_").lower() in BACKGROUNDS) and used:
            problems.add(ROOT, name)
        else:
            kept.append(record)
    return kept
