"""A run's folder: `runs/RECIPE-TIMESTAMP/`, and the names of the files in it."""

import contextlib
import json
import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from rmt.atomic import write_text
from rmt.data.files import require_regular
from rmt.errors import RMTError
from rmt.output_folder import create_folder, require_empty, require_permission, unused_path
from rmt.recipes.recipe import Recipe, from_dict
from rmt.suggestions import nearest_run

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_RUNS = Path("runs")
_NAMES = ("last", "best", "recipe", "metrics", "report", "data", "train_batch")
MAX_JSON = 2**26
"""Bytes of the largest JSON file that is read from a run folder; what a run writes takes a thousandth of it."""
_locked: dict[Path, int] = {}
"""The run folders that this process has locked, and the handles of the locks."""


def _close_handles() -> None:
    """Closes them in a process forked from this one, such as a data worker, which would otherwise hold the locks on."""
    for handle in _locked.values():
        os.close(handle)
    _locked.clear()


if fcntl is not None:
    os.register_at_fork(after_in_child=_close_handles)


def read_json(path: Path) -> Any:
    """The content of a JSON file of a run. Raises OSError or ValueError, also for more than `MAX_JSON`."""
    require_regular(path)
    with path.open("rb") as file:
        text = file.read(MAX_JSON + 1)
    if len(text) > MAX_JSON:
        raise ValueError(f"it has more than {MAX_JSON >> 20} MB")
    return json.loads(text)


class RunFolder:
    """The folder of one run, and the paths of its files: recipe as run, metrics, report, resumable state, weights."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe: Path = path / "recipe.json"
        self.metrics_csv: Path = path / "metrics.csv"
        self.metrics_json: Path = path / "metrics.json"
        self.report: Path = path / "report.png"
        self.train_batch: Path = path / "train_batch.png"
        self.report_json: Path = path / "report.json"
        self.data: Path = path / "data.jsonl.gz"
        self.state: Path = path / "last.ckpt"
        self.last: Path = path / "last.safetensors"
        self.last_ema: Path = path / "last-ema.safetensors"
        self.best: Path = path / "best.safetensors"

    @staticmethod
    def require_empty(recipe: Recipe) -> None:
        """Raises RMTError when the recipe's `output` is a file or a folder that holds something, or no folder can be
        created there (without `output`, in `runs`)."""
        if recipe.output:
            otherwise = f", or resume the run in it with `rmt train --resume {recipe.output}`"
            require_empty(Path(recipe.output).expanduser(), otherwise)
        else:
            require_permission(_RUNS / recipe.name)

    @classmethod
    def create(cls, recipe: Recipe) -> "RunFolder":
        """Makes the folder, `output` or `runs/NAME-TIMESTAMP`, and writes the recipe into it.

        Raises RMTError when the folder holds files already or cannot be written.
        """
        cls.require_empty(recipe)
        name = re.sub(r"[^\w.-]+", "-", recipe.name) or "run"
        # The second of two runs that start within one second gets a number behind its name.
        default = _RUNS / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
        path = Path(recipe.output).expanduser() if recipe.output else unused_path(default)
        create_folder(path)
        folder = cls(path)
        folder.write_recipe(recipe)
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of an earlier run. Raises RMTError when it is none."""
        folder = cls(path)
        if not folder.recipe.is_file():
            remedy = f"give the folder that it wrote{nearest_run(path, folder.recipe.name)}"
            raise RMTError(f"{path} is no run of `rmt train`, there is no recipe.json in it: {remedy}")
        return folder

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Context manager that keeps other processes from training in this folder. It may be entered again inside.

        The lock is the operating system's, so that it ends with this process. Raises RMTError when another process
        holds it. Where the file system has no locks, nothing is locked.
        """
        if fcntl is None or self.path in _locked:
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RMTError(f"another process is training in {self.path}: wait for it, or stop it first") from None
            except OSError:  # no locks on this file system
                pass
            _locked[self.path] = handle
            yield
        finally:
            _locked.pop(self.path, None)
            os.close(handle)

    def remove_temporary_files(self) -> None:
        """Removes the unfinished files that a kill inside a save left behind (`.best.safetensors.…`)."""
        for file in self.path.glob(".*"):
            if file.is_file() and file.name[1:].startswith(_NAMES):
                file.unlink(missing_ok=True)

    def write_recipe(self, recipe: Recipe) -> None:
        write_text(self.recipe, json.dumps(recipe.as_dict(), indent=2) + "\n")

    @property
    def task(self) -> str:
        """The name of the recipe's task. Raises RMTError when the recipe cannot be read."""
        return str(self._recipe_values().get("task"))

    def read_recipe(self) -> Recipe:
        """Reads the recipe of the run. Raises RMTError when it cannot be read."""
        try:
            return from_dict(self._recipe_values())
        except (ValueError, TypeError) as error:
            raise RMTError(f"cannot read {self.recipe}: {error}") from error

    def _recipe_values(self) -> dict[str, Any]:
        try:
            values = read_json(self.recipe)
        except (OSError, ValueError, RecursionError) as error:
            raise RMTError(f"cannot read {self.recipe}: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(values, dict):
            raise RMTError(f"cannot read {self.recipe}: a JSON object with the fields of a recipe is expected")
        return values
