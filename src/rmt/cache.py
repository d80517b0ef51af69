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
    user = os.geteuid() if hasattr(os, "geteuid") else None
    fallback = Path(tempfile.gettempdir()) / f"rmt-cache-{user}"
    if _writable(fallback) and (user is None or _private(fallback, user)):
        return fallback
    raise RMTError(f"{usual or fallback}: the cache folder cannot be written; set {VARIABLE} to one that can")


def _writable(folder: Path) -> bool:
    """Whether a file can be written there. Tries it, because permission bits are not the whole answer."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _private(folder: Path, user: int) -> bool:
    """Whether only `user` can write to the folder.

    Anyone may create a folder of this name in a shared temporary folder, and compiled kernels are loaded from it.
    """
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == user and not status.st_mode & 0o022
