"""The network that a server runs, and its replacement by a newer file while the server runs on."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmt.errors import RMTError
from rmt.inference import Predictor, load
from rmt.model import resolve_checkpoint
from rmt.terminal import complain

POLL_SECONDS = 1.0

Fingerprint = tuple[tuple[int, int, int], ...]


class Hosted:
    """A predictor and the number of its file's version, replaced together.

    Args:
        path: a model file, an exported file, a run folder, or a network with weights in the package.
        options: of `rmt.load`.
    Raises:
        RMTError: it cannot be loaded, or does not answer.
    """

    def __init__(self, path: str | Path, **options: Any) -> None:
        self.path: Path = Path(path)
        self.options = options
        self.current: tuple[Predictor, int] = (self._load(), 1)

    @property
    def predictor(self) -> Predictor:
        return self.current[0]

    @property
    def version(self) -> int:
        """1 for the first file, one more for each that took its place."""
        return self.current[1]

    def reload(self) -> None:
        """Load the file again. The batch that is being computed is finished by the old network.

        Raises:
            RMTError: the new file cannot be used; the old network stays.
        """
        new, (old, version) = self._load(), self.current
        if new.task != old.task:
            raise RMTError(f"{self.path} is now for the task {new.task!r}, not {old.task!r}: restart the server for it")
        self.current = (new, version + 1)

    def _load(self) -> Predictor:
        predictor = load(self.path, **self.options)
        for size in _probe_sizes(predictor):  # compiles what is compiled at first use; a broken network fails here
            probe = Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8))
            try:
                (answer,) = predictor.predict_batch([probe])
            except RMTError:
                raise
            except Exception as error:
                raise RMTError(f"{self.path} loads, but does not run: {type(error).__name__}: {error}") from error
            if predictor.task == "classify" and not all(0 <= entry.probability <= 1 for entry in answer):
                raise RMTError(f"{self.path} has weights that give no finite probabilities")
        return predictor

    def fingerprint(self) -> Fingerprint | None:
        """What changes when the file is written: of OpenVINO's pair that of both. None while a file is missing."""
        try:
            file = resolve_checkpoint(self.path)
            files = [file, file.with_suffix(".bin")] if file.suffix == ".xml" else [file]
            states = [each.stat() for each in files]
        except (OSError, RMTError):
            return None
        return tuple((state.st_mtime_ns, state.st_size, state.st_ino) for state in states)


def _probe_sizes(predictor: Predictor) -> list[tuple[int, int]]:
    """Heights and widths of images that the network must answer for: a fixed graph may take one size alone."""
    exported = predictor.metadata.get("exported")
    height, width = exported["input"]["shape"][2:] if exported else (None, None)
    return [(48, 64), (64, 48)] if height is None or width is None else [(height, width)]


class Watch:
    """Reloads a network when its file changes, in a thread of its own, until `stop`.

    A file that is still being written is waited for: it is loaded once it is the same at two looks.

    Args:
        hosted: the network.
        on_reload: called with "loaded" or "refused".
    """

    hosted: Hosted
    on_reload: Callable[[str], None]
    seconds: float

    def __init__(self, hosted: Hosted, on_reload: Callable[[str], None], seconds: float = POLL_SECONDS) -> None:
        self.hosted, self.on_reload, self.seconds = hosted, on_reload, seconds
        self.known = self.last = hosted.fingerprint()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="rmt-reload", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self.seconds):
            self.look()

    def look(self) -> None:
        """Look at the file once, and load it if it has changed and is no longer being written."""
        now = self.hosted.fingerprint()
        settled, self.last = now == self.last, now
        if now is None or now == self.known or not settled:
            return
        self.known = now
        try:
            self.hosted.reload()
        except Exception as error:  # whatever is wrong with the new file, the old network serves on
            complain(f"rmt serve: the new {self.hosted.path} is refused, the old network serves on: {error}")
            self.on_reload("refused")
        else:
            complain(f"rmt serve: {self.hosted.path} is loaded again (version {self.hosted.version})")
            self.on_reload("loaded")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
