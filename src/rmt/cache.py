"""The cache folder: memory-mapped copies of parquet shards, and the kernels compiled on this machine."""

import os
import stat
import tempfile
from pathlib import Path

from rmt.errors import RMTError

VARIABLE = "RMT_CACHE"


def cache_folder() -> Path:
    """Return the cache folder, creating it: `$RMT_CACHE`, else `$XDG_CACHE_HOME/rmt`, else `~/.cache/rmt`.

    If the home directory is not writable (in a container or a batch job), use a private folder in the temporary folder.

    Raises:
        RMTError: `$RMT_CACHE` is set but not writable, or no folder is.
    """
    if chosen := os.environ.get(VARIABLE):
        folder = Path(chosen).expanduser()
        if not _writable(folder):
            raise RMTError(f"{folder}: the cache folder ({VARIABLE}) cannot be written; choose another")
        return folder
    try:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmt"
    except RuntimeError:  # the user has no home directory
        usual = None
    if usual is not None and _writable(usual):
        return usual
    fallback = Path(tempfile.gettempdir()) / f"rmt-cache-{_user()}"
    if _writable(fallback) and _private(fallback):
        return fallback
    raise RMTError(f"{usual or fallback}: the cache folder cannot be written; set {VARIABLE} to one that can")


def private_folder(folder: Path) -> Path:
    """Return the folder, created if it is absent. Raises RMTError if others can write to it, see `require_private`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_private(folder)
    return folder


def require_private(path: Path) -> None:
    """Raises RMTError unless this user owns the file or folder and no one else can write to it.

    Compiled kernels run with the rights of this process, and the cache may be in a folder that others share.
    """
    if not _private(path):
        raise RMTError(
            f"{path}: compiled kernels are not loaded from a place that other users own or can write to; delete it, or "
            f"set {VARIABLE} to a folder of your own"
        )


def _writable(folder: Path) -> bool:
    """Whether a file can be written there. Tries it, because permission bits are not the whole answer."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private(path: Path) -> bool:
    """Whether this user alone can write to a file or folder; a link is neither."""
    status = path.lstat()
    mine = _user() in (None, status.st_uid)
    return mine and not stat.S_ISLNK(status.st_mode) and not status.st_mode & 0o022


def _user() -> int | None:
    return os.geteuid() if hasattr(os, "geteuid") else None
