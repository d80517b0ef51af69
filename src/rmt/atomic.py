"""Files that are whole or absent: written beside the target, flushed to the disk, then renamed over it."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from rmt.errors import RMTError

_REMEDY = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "your disk quota is used up: free some space",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file would be larger than the limit set here (ulimit -f)",
}


@contextlib.contextmanager
def plain_disk_errors(path: Path) -> Iterator[None]:
    """Turns what the disk refuses while `path` is written into one line (RMTError)."""
    try:
        yield
    except OSError as error:
        reason = _REMEDY.get(error.errno or 0, error.strerror or str(error))
        raise RMTError(f"cannot write {path}: {reason}") from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name beside `path` to write to; on success that file takes `path`'s place, on failure it is removed.

    A kill at any moment leaves the old `path` whole. Raises RMTError where the disk refuses.
    """
    draft = path.with_name(f".{path.name}.writing-{os.getpid()}")
    with plain_disk_errors(path):
        try:
            yield draft
            with open(draft, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(draft, path)
            sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Makes a rename inside `folder` survive a power cut; a file system that cannot do it is left alone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file atomically. Raises RMTError where the disk refuses."""
    with replacing(path) as draft:
        draft.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, in UTF-8, atomically. Raises RMTError where the disk refuses."""
    write_bytes(path, text.encode())
