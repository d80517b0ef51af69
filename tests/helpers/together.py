"""Runs a function in several processes at once, as torchrun would start them.

The processes are forked from a server that has imported everything once, so that each starts within milliseconds.
"""

import contextlib
import functools
import multiprocessing
import multiprocessing.forkserver
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = ["helpers.runs", "rmt.commands.train", "rmt.tasks.classify", "rmt.tasks.classify.report", "tensorboard"]


@functools.cache
def _start_server() -> None:
    """Starts the fork server, which ignores what it cannot import: it has no `sys.path` but the environment's."""
    _CONTEXT.set_forkserver_preload(_PRELOADED)
    with mock.patch.dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path))):
        multiprocessing.forkserver.ensure_running()


def run_together(
    function: Callable, *args: Any, size: int = 2, output: Path, seconds: float = 120, **options: Any
) -> list[int]:
    """Calls `function(*args, **options)` in `size` processes and returns their exit codes; -9 is SIGKILL.

    What process r prints is in `output/r.txt`. One that is not done after `seconds` is killed, and fails the test.
    """
    processes = start_together(function, *args, size=size, output=output, **options)
    return wait_for(processes, seconds)


def start_together(function: Callable, *args: Any, size: int = 2, output: Path, **options: Any) -> list[Any]:
    _start_server()
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    output.mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(size):
        given = dict(TORCHELASTIC_RUN_ID="test", RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, LOCAL_WORLD_SIZE=size)
        given |= dict(GROUP_RANK=0, MASTER_ADDR="127.0.0.1", MASTER_PORT=port, OMP_NUM_THREADS=1)
        process = _CONTEXT.Process(target=_process, args=(given, output / f"{rank}.txt", function, args, options))
        process.start()
        processes.append(process)
    return processes


def wait_for(processes: list[Any], seconds: float = 120) -> list[int]:
    for process in processes:
        process.join(seconds)
    late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        if process.is_alive():
            process.kill()
            process.join()
    assert not late, f"processes {late} were not done after {seconds} s"
    return [process.exitcode for process in processes]


def _process(given: dict[str, Any], output: Path, function: Callable, args: tuple, options: dict) -> None:
    import torch

    os.environ |= {key: str(value) for key, value in given.items()}
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # the usual one, instead of that which started this process
    with open(output, "w", buffering=1) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            sys.exit(function(*args, **options))


def rmt_command(*args: str, before: Callable[[], None] | None = None) -> int:
    """The command line, in this process; `before` is called first, to break something."""
    from rmt.commands import cli

    if before is not None:
        before()
    return cli.main(list(args))


def recipe_file(path: Path, recipe: Any) -> str:
    """Writes a recipe to a Python file; returns what `rmt train` takes for it."""
    values = {key: value for key, value in recipe.as_dict().items() if key != "task"}
    path.write_text(f"from rmt.recipes import {type(recipe).__name__} as R\n\nmine = R(**{values!r})\n")
    return f"{path}:mine"


def without_report():
    import rmt.tasks.classify.report

    rmt.tasks.classify.report.draw_report = lambda *args: None


def together(tmp_path: Path, *args: str, codes: tuple[int, ...] = (0, 0), before=without_report) -> list[str]:
    """`rmt train ARGS` in two processes, which must end with these codes; what each said."""
    got = run_together(rmt_command, "train", *args, output=tmp_path / "said", before=before)
    said = [(tmp_path / "said" / f"{rank}.txt").read_text() for rank in range(2)]
    assert tuple(got) == codes, said
    return said


def train_together(tmp_path: Path, name: str = "run", **changes) -> Path:
    """Trains in two processes; the run's folder."""
    options = {key: changes.pop(key) for key in ("codes", "before") if key in changes}
    folder = tmp_path / name
    from helpers.runs import tiny_recipe

    recipe = tiny_recipe(output=str(folder), **{"devices": "auto", **changes})
    together(tmp_path, recipe_file(tmp_path / "recipe.py", recipe), **options)
    return folder
