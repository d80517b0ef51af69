"""The file `data.yaml` of a YOLO data set: class names, and where the images of each split are."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rmt.data.files import read_text
from rmt.data.split_names import NAMES, Split, by_split
from rmt.errors import RMTError

MAX_BYTES = 2**20
MAX_CLASSES = 100_000
MAX_VALUES = 100_000
"""Names, numbers, lists and so on in the file: each takes PyYAML some 50 µs."""
_KEYS = {name for names in NAMES.values() for name in names}


@dataclass(frozen=True)
class DatasetFile:
    """What a `data.yaml` says: `names` by class number; `places` has the folders, or lists of images, per split;
    `keypoints` is the number of values after each box (`kpt_shape`)."""

    path: Path
    names: dict[int, str]
    places: dict[Split, list[Path]]
    keypoints: int


class _Loader(yaml.BaseLoader):
    """PyYAML's loader that leaves all values text (a class may be called `no`), without aliases, by which a small file
    can stand for a huge one."""

    values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.values += 1
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has an alias (*NAME)")
        if self.values > MAX_VALUES:
            raise yaml.YAMLError(f"it has more than {MAX_VALUES:,} values")
        return super().compose_node(parent, index)


def read_dataset_file(root: Path, path: Path | None = None) -> DatasetFile | None:
    """The file `path`, or the one YAML file of `root` that names classes; None if there is none. Raises `RMTError`."""
    candidates = [path] if path else [root / "data.yaml", *sorted([*root.glob("*.yaml"), *root.glob("*.yml")])]
    for candidate in dict.fromkeys(candidates):
        if not candidate.is_file():
            continue
        content = _load(candidate)
        if isinstance(content, Mapping) and "names" in content:
            keypoints = _keypoints(content.get("kpt_shape"), candidate)
            return DatasetFile(candidate, _names(content["names"], candidate), _places(content, candidate), keypoints)
        if path or candidate.name == "data.yaml":
            raise RMTError(f"{candidate}: no class names; expected names: [NAME, …], train: FOLDER, val: FOLDER")
    return None


def _load(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RMTError(f"{path}: more than {MAX_BYTES:,} bytes, which no data.yaml needs")
        return yaml.load(read_text(path), Loader=_Loader)
    except (OSError, UnicodeDecodeError, ValueError, RecursionError, yaml.YAMLError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"at line {mark.line + 1}" if mark else f"({' '.join(str(error).split())[:100]})"
        raise RMTError(f"{path}: not a YAML file that can be read {where}") from None


def _names(names: Any, path: Path) -> dict[int, str]:
    pairs = names.items() if isinstance(names, Mapping) else enumerate(names) if isinstance(names, list) else ()
    found = {int(number): name for number, name in pairs if str(number).isdecimal() and isinstance(name, str)}
    if not found or len(found) < len(names) or len(found) > MAX_CLASSES or max(found) >= 2**31:
        raise RMTError(f"{path}: names must be a list of class names, or number: name lines")
    return found


def _keypoints(shape: Any, path: Path) -> int:
    sides = shape if isinstance(shape, list) else [] if shape is None else [shape]
    if not all(isinstance(side, str) and re.fullmatch(r"\d{1,4}", side) for side in sides):
        raise RMTError(f"{path}: kpt_shape must be two numbers, such as [17, 3]")
    return math.prod(map(int, sides)) if sides else 0


def _places(content: Mapping[str, Any], path: Path) -> dict[Split, list[Path]]:
    """The folders and lists of each split that exist. Raises `RMTError` for one that is named and does not."""
    found: dict[Split, list[Path]] = {}
    given = {str(key): value for key, value in content.items() if value and str(key).lower() in _KEYS}
    for split, key in by_split(given, path).items():
        value = given[key]
        entries = value if isinstance(value, list) else [value] if value else []
        if not all(isinstance(entry, str) for entry in entries):
            raise RMTError(f"{path}: {split} must be a folder of images, a list file, or several of them")
        places = [_place(entry, content.get("path"), path) for entry in entries]
        missing = [entry for entry, place in zip(entries, places, strict=True) if place is None]
        if missing and split != "test":  # exports often name a test part that they do not contain
            raise RMTError(f"{path}: {split}: there is no {missing[0]}; correct the path, or remove the line")
        if known := [place for place in places if place is not None]:
            found[split] = known
    return found


def _place(entry: str, base: Any, path: Path) -> Path | None:
    """The folder or file that an entry means: relative to `path:`, or to the folder of the YAML file.

    Roboflow writes `../train/images` for a folder beside the file, so leading `..` are left out if that exists alone.
    """
    folder = path.parent
    bases = [folder / base, folder] if isinstance(base, str) else [folder]
    inside = entry.replace("\\", "/")
    while inside.startswith(("../", "./")):
        inside = inside.partition("/")[2]
    candidates = [place / name for place in bases for name in (entry, inside)]
    found = next((place for place in candidates if place.exists()), None)
    return Path(os.path.normpath(found)) if found else None
