"""Peak memory of a case."""

import contextlib
import ctypes
import functools
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace

import torch

from rmt.benchmark.build import build_step
from rmt.benchmark.cases import Case, Options

TIMEOUT = 1800  # seconds for the measurement of one case


def peak_memory(case: Case, options: Options) -> int | None:
    """Return the peak memory of a case in bytes, without that of model and images; None if it is not known.

    On a CPU it is measured in a new process, so that the memory of other cases does not count. Its allocator returns
    large blocks at once: if it keeps them, as by default, repeated measurements differ by a fifth.
    """
    if options.device.startswith("cuda"):
        return measure_memory(case, options)
    if options.device != "cpu":
        return None
    return _in_new_process(case, replace(options, models=(), image_sizes=(), steps=(), modes=()))


@functools.cache  # the reference network of a series is a case of each of its runs
def _in_new_process(case: Case, options: Options) -> int | None:
    command = [sys.executable, "-m", "rmt.benchmark", "--memory-of", json.dumps([asdict(case), asdict(options)])]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=env)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return None


def measure_memory(case: Case, options: Options) -> int | None:
    """Like `peak_memory`, in this process. Memory of gradients counts, that of compilation does not.

    It is the peak over what is in use before the step; None on a CPU without Linux's `/proc`.
    """
    run = build_step(replace(case, mode=case.mode.removesuffix("+graph")), options)
    if "compile" in case.mode:
        run()
    if options.device.startswith("cuda"):  # ask the allocator
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        in_use = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - in_use
    return resident_peak(run)


def resident_peak(function: Callable[[], object]) -> int | None:
    """Return the peak memory of a call in bytes over what this process has before; None without Linux's `/proc`."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # resets the peak of the resident set, which Linux counts
    before = _resident("VmRSS")
    kept = function()  # counts, as part of what the call needs
    after = _resident("VmHWM")
    del kept
    return None if before is None or after is None else max(0, after - before)


def release_memory() -> None:
    """Give freed memory back to the system, where the C library can, so that other processes find it."""
    gc.collect()
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _resident(field: str) -> int | None:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None
