"""Create the folder that a run or a command writes to, without touching files that were there before."""

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


def require_empty(path: Path, otherwise: str = "") -> None:
    """Check that `path`, given as --output, does not exist or is an empty folder.

    Args:
        path: the folder.
        otherwise: appended to the error, an alternative to choosing another folder.
    Raises:
        RMTError: it is a file or contains files, or its name cannot be written in UTF-8, as safetensors needs it.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise RMTError(f"--output {path}: the name is not UTF-8; choose another folder") from None
    if not path.exists():
        return
    if not path.is_dir():
        raise RMTError(f"--output {path} is a file, not a folder")
    if name := _first_file(path):
        raise RMTError(f"--output {path} is not empty (it holds {name}): choose another folder{otherwise}")


def create_folder(path: Path) -> None:
    """Create the folder and its parents. Raises RMTError if that is not possible."""
    with disk_errors_as_rmt_error(path):
        path.mkdir(parents=True, exist_ok=True)


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
    create_folder(path)
    if (path / index).exists():
        return True
    if name := _first_file(path, hidden=False):
        raise RMTError(f"{path}: it holds {name} but no {index}; choose another folder for the {what}")
    write_text(path / index, content)
    return False


def _first_file(path: Path, *, hidden: bool = True) -> str:
    """Name of any file in the folder, "" if there is none."""
    with disk_errors_as_rmt_error(path):
        return next((file.name for file in path.iterdir() if hidden or not file.name.startswith(".")), "")
