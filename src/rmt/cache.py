"""Where the memory-mapped copies of parquet shards and the kernels built on this machine are kept."""

import os
import stat
import tempfile
from pathlib import Path

from rmt.errors import RMTError

VARIABLE = "RMT_CACHE"


def cache_folder() -> Path:
    """The cache folder, made if need be: `$RMT_CACHE`, else `$XDG_CACHE_HOME/rmt`, else `~/.cache/rmt`.

    Where the home cannot be written (a container, a batch job) a folder of this user's under the temporary folder
    serves; where `$RMT_CACHE` cannot be written, that is an `RMTError`: it was asked for.
    """
    if chosen := os.environ.get(VARIABLE):
        folder = Path(chosen).expanduser()
        if not _usable(folder):
            raise RMTError(f"{folder}: the cache folder ({VARIABLE}) cannot be written; choose another")
        return folder
    try:
        usual = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rmt"
    except RuntimeError:  # no home at all
        usual = None
    if usual is not None and _usable(usual):
        return usual
    user = os.geteuid() if hasattr(os, "geteuid") else None
    fallback = Path(tempfile.gettempdir()) / f"rmt-cache-{user}"
    if _usable(fallback) and (user is None or _ours_alone(fallback, user)):
        return fallback
    raise RMTError(f"{usual or fallback}: the cache folder cannot be written; set {VARIABLE} to one that can")


def _usable(folder: Path) -> bool:
    """Whether a file can be written there: asked by writing one, since permission bits do not tell all."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _ours_alone(folder: Path, user: int) -> bool:
    """Whether nobody else can have put anything there: in a shared temporary folder anyone may make one of that name,
    and kernels are loaded from it."""
    facts = folder.lstat()
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == user and not facts.st_mode & 0o022
