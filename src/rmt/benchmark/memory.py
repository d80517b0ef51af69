"""Peak memory of a block of code, and of a case."""

import contextlib
import json
import os
import subprocess
import sys
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
    command = [sys.executable, "-m", "rmt.benchmark", "--memory-of", json.dumps([asdict(case), asdict(options)])]
    env = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 * 1024)}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, env=env)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return None


def measure_memory(case: Case, options: Options) -> int | None:
    """Like `peak_memory`, in this process. Memory of gradients counts, that of compilation does not."""
    run = build_step(replace(case, mode=case.mode.removesuffix("+graph")), options)
    if "compile" in case.mode:
        run()
    with PeakMemory(options.device) as peak:
        run()
    return peak.bytes


class PeakMemory:
    """Context manager that measures the peak memory of a block over what is in use when it starts.

    On CUDA it asks the allocator, on Linux it uses the peak resident set of the process. `bytes` is None if neither is
    available.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.bytes: int | None = None
        self.before: int | None = None

    def __enter__(self) -> "PeakMemory":
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
        else:
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
                file.write("5")
            self.before = _resident("VmRSS")
        return self

    def __exit__(self, *exc) -> None:
        if self.cuda:
            torch.cuda.synchronize()
            self.bytes = torch.cuda.max_memory_allocated() - (self.before or 0)
        elif self.before is not None and (after := _resident("VmHWM")) is not None:
            self.bytes = max(0, after - self.before)


def _resident(field: str) -> int | None:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None
