"""Write files atomically: under a temporary name first, flushed to disk, then renamed to the target."""

import contextlib
import errno
import os
import threading
from collections.abc import Iterator, Sequence
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
def disk_errors_as_rmt_error(path: Path) -> Iterator[None]:
    """Turn an error of the disk raised while writing `path` into an RMTError of one line."""
    try:
        yield
    except RMTError:
        raise
    except Exception as error:
        if (reason := disk_error(error)) is None:
            raise
        raise RMTError(f"cannot write {path}: {reason}") from error


def disk_error(error: BaseException) -> str | None:
    """What the operating system refused, in words; None for any other error.

    Libraries raise errors of their own on top of it: a full disk reads as "unexpected pos 576 vs 534" in torch.save.
    """
    if isinstance(error, OSError):
        return _REMEDY.get(error.errno or 0, error.strerror or str(error))
    seen = {id(error)}
    below = error.__cause__ or error.__context__
    while below is not None and id(below) not in seen:
        seen.add(id(below))
        if isinstance(below, OSError) and below.errno in _REMEDY:
            return _REMEDY[below.errno]
        below = below.__cause__ or below.__context__
    return None


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Context manager that yields a temporary path in the same folder; write the new content there.

    On success the temporary file replaces `path`; on failure it is deleted. If the process is killed at any moment,
    the old `path` is still complete.

    Raises:
        RMTError: the file cannot be written.
    """
    if not path.name:  # "." or "/"
        raise RMTError(f"cannot write {path}: it is a folder")
    temporary = path.with_name(f".{path.name}.writing-{os.getpid()}-{threading.get_ident()}")
    with disk_errors_as_rmt_error(path):
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)


def replace_together(pairs: Sequence[tuple[Path, Path]]) -> None:
    """Move (complete file, target) pairs of one file system; the last file is one that names the others.

    It is removed first and moved last, so that it never names files of another version. Raises RMTError.
    """
    *_, (_, last) = pairs
    with disk_errors_as_rmt_error(last):
        if len(pairs) > 1:
            last.unlink(missing_ok=True)
        for source, target in pairs:
            with open(source, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(source, target)
        _sync_folder(last.parent)


def _sync_folder(folder: Path) -> None:
    """Flush `folder`, so that a rename inside it survives a power cut, where the file system supports it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically. Raises RMTError if it cannot be written."""
    with replace_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically. Raises RMTError if it cannot be written."""
    write_bytes(path, text.encode())
