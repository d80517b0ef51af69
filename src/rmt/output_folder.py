"""Folders that one run or command fills: a name nobody has, nothing of anybody else's inside, one description."""

from pathlib import Path

from rmt.atomic import plain_disk_errors, write_text
from rmt.errors import RMTError


def unused(path: Path) -> Path:
    """The path, or with -2, -3, … behind it the first that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def refuse_used(path: Path, otherwise: str = "") -> None:
    """Raises RMTError when `path`, given as --output, is a file or a folder that holds something.

    `otherwise`: what else to do than to choose another folder.
    """
    if not path.exists():
        return
    if not path.is_dir():
        raise RMTError(f"--output {path} is a file, not a folder")
    with plain_disk_errors(path):
        inside = next(path.iterdir(), None)
    if inside is not None:
        raise RMTError(f"--output {path} is not empty (it holds {inside.name}): choose another folder{otherwise}")


def make(path: Path) -> None:
    """Makes the folder, and those above it. Raises RMTError where the disk refuses."""
    with plain_disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)


def claim(path: Path, index: str, content: str, what: str) -> bool:
    """Makes the folder for `what`, described by its file `index`; True when it was described before, by whatever.

    A new or empty folder gets `content` as its description. Raises RMTError when it holds files but no description.
    """
    make(path)
    if (path / index).exists():
        return True
    with plain_disk_errors(path):
        used = next((file.name for file in path.iterdir() if not file.name.startswith(".")), "")
    if used:
        raise RMTError(f"{path}: it holds {used} but no {index}; choose another folder for the {what}")
    write_text(path / index, content)
    return False
