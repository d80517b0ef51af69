"""The files of a folder by name, such as an image and the annotation file of the same name; their lines and sizes."""

import codecs
import errno
import math
import os
import stat
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

from rmt.data.images import EXTENSIONS
from rmt.errors import RMTError
from rmt.terminal import escape

MAX_TEXT = 2**28
"""Bytes of a text file that is read as a whole, such as a list of classes."""
MAX_TABLE = 2**32
"""Bytes of a CSV file."""
MAX_JSON = 2**34
"""Bytes of a file of annotations: those of the largest public data have 6 GB."""


def require_folder_access(folder: Path) -> None:
    """Raises RMTError if this user may not look into a folder, which would pass for one without the files in it."""
    effective = os.access in os.supports_effective_ids
    if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK, effective_ids=effective):
        raise RMTError(f"{folder}: no permission to read this folder")


def walk(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """What `os.walk` yields. Raises RMTError for a folder that cannot be read, whose files would be left out unsaid."""
    yield from os.walk(folder, onerror=_unreadable)


def _unreadable(error: OSError) -> None:
    reason = "no permission to read this folder" if isinstance(error, PermissionError) else error.strerror
    raise RMTError(f"{error.filename}: {reason}")


def files_below(folder: Path, extensions: Collection[str], *, deep: bool = True) -> list[str]:
    """The files with one of these extensions (lower case), relative to `folder`, sorted; hidden ones are left out.

    Without `deep` only those directly in the folder; none if there is no such folder.
    """
    found: list[str] = []
    for here, folders, files in walk(folder) if os.path.isdir(folder) else ():
        folders[:] = sorted(name for name in folders if deep and not name.startswith("."))
        relative = os.path.relpath(here, folder)
        names = [name for name in files if _suffix(name) in extensions and not name.startswith(".")]
        found += [name if relative == "." else os.path.join(relative, name) for name in names]
    return sorted(found)


def has_files(folder: Path, extension: str) -> bool:
    """Whether a file with this extension (lower case) lies directly in `folder`; False if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return any(_suffix(entry.name) == extension and not entry.name.startswith(".") for entry in entries)
    except OSError:
        return False


def images_by_stem(folder: Path, *, deep: bool = True) -> dict[str, str]:
    """The image files of `folder` by their relative path without the extension; of several the first by name."""
    found: dict[str, str] = {}
    for name in files_below(folder, EXTENSIONS, deep=deep):
        found.setdefault(os.path.splitext(name)[0], name)
    return found


def is_folder(entry: os.DirEntry[Any]) -> bool:
    """Whether an entry is a folder, or a link to one; False for a link that leads to itself or that may not be read."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def subfolder(root: Path, names: Collection[str]) -> Path | None:
    """The first folder directly below `root` whose name, in lower case, is one of `names`."""
    try:
        present = {entry.name.lower(): Path(entry.path) for entry in os.scandir(root) if is_folder(entry)}
    except OSError:
        return None
    return next((present[name] for name in names if name in present), None)


def size_on_disk(path: str | Path) -> str:
    """The bytes of a file; "gone" if there is none."""
    try:
        return str(os.stat(path).st_size)
    except OSError:
        return "gone"


def valid_name(name: str) -> str:
    """The name with undecodable bytes and halves of characters as escapes (`\\xff`), which every file can hold."""
    return "".join(escape(character) if "\ud800" <= character <= "\udfff" else character for character in name)


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, stripped, without empty ones. Undecodable characters are replaced."""
    return [line.strip() for line in read_text(path, errors="replace").splitlines() if line.strip()]


def read_file(path: Path, most: int = MAX_TEXT) -> bytes:
    """The content of a regular file of at most so many bytes. Raises `OSError` for others."""
    require_regular(path, most)
    return path.read_bytes()


def require_regular(path: Path, most: float = math.inf) -> None:
    """Raise `OSError` where reading might never end: for a pipe, a device, a file of more than so many bytes."""
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        is_folder = stat.S_ISDIR(status.st_mode)
        raise OSError(errno.EINVAL, "a folder, not a file" if is_folder else "not a regular file", str(path))
    if status.st_size > most:
        raise OSError(errno.EFBIG, f"{status.st_size:,} bytes, the limit is {most:,}", str(path))


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, as editors of Windows write it."""
    return decode_text(read_file(path), errors=errors)


def decode_text(data: bytes, *, errors: str = "strict") -> str:
    """The text in the bytes of a file; see `read_text`."""
    return data.decode(_encoding(data), errors)


def open_text(path: Path) -> IO[str]:
    """A file opened for reading as `read_text` does, with other characters replaced and its line ends kept.

    Raises `OSError`, also for a file that is not regular or has more than `MAX_TABLE` bytes.
    """
    require_regular(path, MAX_TABLE)
    with open(path, "rb") as file:
        encoding = _encoding(file.read(2))
    return open(path, newline="", encoding=encoding, errors="replace")


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
