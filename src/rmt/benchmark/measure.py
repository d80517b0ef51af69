"""Time and memory of cases: interleaved rounds, so that whatever slows the machine slows all of them alike."""

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

MEMORY_SECONDS = 1800  # a memory measurement that takes longer is given up


def time_rounds(
    functions: Mapping[Any, Callable[[], None]], options: Options, report: Callable[[str], None]
) -> dict[Any, list[float]]:
    """Seconds per call of each function in each round. Every function has been called before.

    In each round all functions are measured once, in another order; a short one is repeated to fill its share.
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
    """Seconds per call on the GPU's own clock."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / repeats


def summarise(seconds: list[float]) -> dict[str, Any]:
    """Median, and quartiles for the spread."""
    first, _, third = statistics.quantiles(seconds, n=4) if len(seconds) > 1 else (seconds[0],) * 3
    return dict(median=statistics.median(seconds), quartiles=[first, third], minimum=min(seconds), rounds=seconds)


def peak_memory(case: Case, options: Options) -> int | None:
    """Bytes over what model and images take.

    On a CPU in a process of its own, so that no other case's pages count, whose allocator gives large blocks back at
    once: kept for later, as it would, they make repeated measurements differ by a fifth.
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
    """As `peak_memory`, in this process. What compiles has been compiled before; gradients count."""
    run = prepare(replace(case, mode=case.mode.removesuffix("+graph")), options)
    if "compile" in case.mode:
        run()
    with PeakMemory(options.device) as peak:
        run()
    return peak.bytes
