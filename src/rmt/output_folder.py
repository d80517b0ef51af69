"""Check and create what a run or a command writes to, without touching files that were there before."""

import os
from pathlib import Path

from rmt.atomic import disk_errors_as_rmt_error, write_text
from rmt.errors import RMTError


def unused_path(path: Path) -> Path:
    """Return `path`, or the first of `path-2`, `path-3`, … that does not exist."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


def require_writable(*files: Path | None) -> None:
    """Check before slow work that these files, if given, can be written after it. Raises RMTError if not."""
    for path in filter(None, files):
        require_permission(path)
        if path.is_dir():
            raise RMTError(f"cannot write {path}: it is a folder; name a file")
        if not path.parent.exists():
            raise RMTError(f"cannot write {path}: its folder does not exist; create it first")


def require_permission(path: Path) -> None:
    """Check that `path`, with the folders above it that are missing, can be created. Raises RMTError if not."""
    with disk_errors_as_rmt_error(path):
        places = (path, *path.parents) if path.is_dir() else path.parents
        folder = next(place for place in places if place.exists())
        if not folder.is_dir():
            raise RMTError(f"cannot write {path}: {folder} is a file, not a folder")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise RMTError(f"cannot write {path}: no permission to write in {folder}")


def require_empty(path: Path, otherwise: str = "") -> None:
    """Check that `path`, given as --output, does not exist or is an empty folder.

    Args:
        path: the folder.
        otherwise: appended to the error, an alternative to choosing another folder.
    Raises:
        RMTError: it is a file or contains files, cannot be created, or its name cannot be written in UTF-8, as
            safetensors needs it.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise RMTError(f"--output {path}: the name is not UTF-8; choose another folder") from None
    require_permission(path)
    if path.is_file():
        raise RMTError(f"--output {path} is a file, not a folder")
    if path.exists() and (name := _first_file(path)):
        raise RMTError(f"--output {path} is not empty (it holds {name}): choose another folder{otherwise}")


def create_folder(path: Path) -> None:
    """Create the folder and its parents. Raises RMTError if that is not possible."""
    with disk_errors_as_rmt_error(path):
        path.mkdir(parents=True, exist_ok=True)


def require_reopenable(path: Path, index: str, what: str) -> None:
    """Check that `path` is a folder for `create_or_reopen`, or can be created. Raises RMTError if not."""
    require_permission(path)
    if path.exists() and not (path / index).exists() and (name := _first_file(path, hidden=False)):
        raise RMTError(f"{path}: it holds {name} but no {index}; choose another folder for the {what}")


def create_or_reopen(path: Path, index: str, content: str, what: str) -> bool:
    """Create a folder that is described by a file in it, or find one that was created before.

    Args:
        path: the folder.
        index: name of the file that describes it.
        content: text of that file, written if the folder is new or empty.
        what: what the folder will contain, for the error.
    Returns:
        True if the folder had an `index` already (whatever is in it).
    Raises:
        RMTError: the folder contains files but no `index`.
    """
    require_reopenable(path, index, what)
    create_folder(path)
    if (path / index).exists():
        return True
    write_text(path / index, content)
    return False


def _first_file(path: Path, *, hidden: bool = True) -> str:
    """Name of any file in the folder, "" if there is none."""
    with disk_errors_as_rmt_error(path):
        return next((file.name for file in path.iterdir() if hidden or not file.name.startswith(".")), "")
