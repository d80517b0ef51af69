"""Checkpoints on disk: `last.ckpt`, and `last.previous.ckpt` in case the newest one is damaged.

Lightning's own save goes through the temporary folder and keeps no second copy. Ours is written beside the target,
flushed, and renamed; the previous checkpoint stays under `.previous`. A SHA-256 of everything before it ends the file,
so a truncated or damaged one is recognised. Checkpoints hold tensors and primitives only and are read with
`weights_only=True`: a file that would run code is refused.
"""

import contextlib
import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import CheckpointIO

from rmt.atomic import replace_file
from rmt.data.files import require_regular
from rmt.errors import RMTError

_MARK = b"RMT-SHA256:"
_TRAILER = len(_MARK) + hashlib.sha256().digest_size


class AtomicCheckpointIO(CheckpointIO):
    """The reader and writer of checkpoints that the Trainer uses. `adapt` may change what was read."""

    def __init__(self, adapt: Callable[[dict[str, Any]], dict[str, Any]] = lambda state: state) -> None:
        super().__init__()
        self.adapt = adapt

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Writes the checkpoint atomically. Raises RMTError when the disk refuses; the file before stays as it was."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(target) as draft:
            with open(draft, "wb") as file:  # opened here, since torch.save(path) hides the OS error
                torch.save(checkpoint, file)
            digest = _digest(draft)
            with open(draft, "ab") as file:
                file.write(_MARK + digest)
            _keep_previous(target)

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return self.adapt(read_state(Path(path), map_location=map_location))

    def remove_checkpoint(self, path: str | os.PathLike[str]) -> None:
        Path(path).unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept: `last.ckpt` -> `last.previous.ckpt`."""
    return path.with_suffix(".previous" + path.suffix)


def read_state(path: Path, map_location: Any = "cpu") -> dict[str, Any]:
    """The checkpoint in the file. Raises RMTError if missing, damaged, or has more than tensors and primitives."""
    try:
        require_regular(path)
        with path.open("rb") as file:  # the checksum first: without it the file may be anything, and of any size
            file.seek(max(path.stat().st_size - _TRAILER, 0))
            if not file.read(_TRAILER).startswith(_MARK):
                raise RMTError(f"{path} is not a complete checkpoint: its checksum is missing (truncated?)")
            file.seek(0)
            data = file.read()
    except OSError as error:
        raise RMTError(f"cannot read {path}: {error.strerror}") from error
    body, trailer = memoryview(data)[:-_TRAILER], data[-_TRAILER:]
    if hashlib.sha256(body).digest() != trailer[len(_MARK) :]:
        raise RMTError(f"{path} is damaged: its checksum does not match")
    try:
        return torch.load(io.BytesIO(body), map_location=map_location, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise RMTError(f"{path} is refused: it holds more than tensors and plain values") from error


def load_newest_state(path: Path) -> tuple[dict[str, Any] | None, str]:
    """The checkpoint to resume from: `path`, or the previous one when `path` is damaged, which it then replaces.

    Returns the checkpoint, and a line that says what was wrong with `path` ("" when nothing was). (None, "") when the
    run was killed before its first checkpoint. Raises RMTError when there are checkpoints but none can be used.
    """
    older = previous(path)
    if not path.exists() and not older.exists():
        return None, ""
    try:
        return read_state(path), ""
    except RMTError as error:
        if not older.exists():
            raise
        state = read_state(older)
        os.replace(older, path)  # else the next save would keep the damaged one as the previous
        return state, f"{error}; resuming from the previous checkpoint"


def _digest(path: Path) -> bytes:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _keep_previous(target: Path) -> None:
    """Gives the current file a second name, so that at no moment is there no whole `target`."""
    if not target.exists():
        return
    older = previous(target)
    older.unlink(missing_ok=True)
    try:
        os.link(target, older)
    except OSError:  # no hard links on this file system: for an instant only `.previous` exists
        with contextlib.suppress(OSError):
            os.replace(target, older)
