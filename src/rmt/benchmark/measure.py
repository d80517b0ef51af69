"""Time and memory of cases. Rounds are interleaved, so that a slowdown of the machine affects all cases equally."""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from rmt.benchmark.cases import Case, Options
from rmt.benchmark.prepare import PeakMemory, prepare

MEMORY_SECONDS = 1800  # limit for the measurement of a case's memory


def time_rounds(
    functions: Mapping[Any, Callable[[], None]], options: Options, report: Callable[[str], None]
) -> dict[Any, list[float]]:
    """Return the seconds per call of each function in each round. Every function has been called before.

    Each round measures all functions once, in random order; a short one is repeated for `options.seconds`.
    """
    clock = cuda_seconds if options.device.startswith("cuda") else _cpu_seconds
    repeats = {key: max(1, int(options.seconds / max(clock(f, 1), 1e-6))) for key, f in functions.items()}
    order, times = list(functions), {key: [] for key in functions}  # type: ignore[var-annotated]
    shuffle = random.Random(options.seed).shuffle
    for i in range(options.rounds):
        shuffle(order)
        for key in order:
            times[key].append(clock(functions[key], repeats[key]))
        report(f"round {i + 1} of {options.rounds}")
    return times


def _cpu_seconds(function: Callable[[], None], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def cuda_seconds(function: Callable[[], None], repeats: int) -> float:
    """Return the seconds per call, measured by CUDA events."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / repeats


def summarise(seconds: list[float]) -> dict[str, Any]:
    """Return median, quartiles and minimum of the rounds."""
    first, _, third = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return dict(median=statistics.median(seconds), quartiles=[first, third], minimum=min(seconds), rounds=seconds)


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
        done = subprocess.run(command, capture_output=True, text=True, timeout=MEMORY_SECONDS, env=env)
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, IndexError, ValueError):
        return None


def measure_memory(case: Case, options: Options) -> int | None:
    """Like `peak_memory`, in this process. Memory of gradients counts, that of compilation does not."""
    run = prepare(replace(case, mode=case.mode.removesuffix("+graph")), options)
    if "compile" in case.mode:
        run()
    with PeakMemory(options.device) as peak:
        run()
    return peak.bytes
