"""The files of a folder by name, such as an image and the annotation file of the same name; their lines and sizes."""

import codecs
import os
from collections.abc import Collection
from pathlib import Path
from typing import IO

from rmt.data.images import EXTENSIONS
from rmt.terminal import escape


def files_below(folder: Path, extensions: Collection[str], *, deep: bool = True) -> list[str]:
    """The files with one of these extensions (lower case), relative to `folder`, sorted; hidden ones are left out.

    Without `deep` only those directly in the folder.
    """
    found: list[str] = []
    for here, folders, files in os.walk(folder):
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


def subfolder(root: Path, names: Collection[str]) -> Path | None:
    """The first folder directly below `root` whose name, in lower case, is one of `names`."""
    try:
        present = {entry.name.lower(): Path(entry.path) for entry in os.scandir(root) if entry.is_dir()}
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


def read_text(path: Path, *, errors: str = "strict") -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, as editors of Windows write it."""
    return decode_text(path.read_bytes(), errors=errors)


def decode_text(data: bytes, *, errors: str = "strict") -> str:
    """The text in the bytes of a file; see `read_text`."""
    return data.decode(_encoding(data), errors)


def open_text(path: Path) -> IO[str]:
    """A file opened for reading as `read_text` does, with other characters replaced and its line ends kept."""
    with open(path, "rb") as file:
        encoding = _encoding(file.read(2))
    return open(path, newline="", encoding=encoding, errors="replace")


def _encoding(data: bytes) -> str:
    return "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
