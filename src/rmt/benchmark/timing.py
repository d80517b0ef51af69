"""Time of functions, in interleaved rounds, so that a slowdown of the machine affects all of them equally."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from rmt.benchmark.cases import Options

TORCH_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def time_rounds(
    functions: Mapping[Any, Callable[[], object]], options: Options, report: Callable[[str], None]
) -> dict[Any, list[float]]:
    """Return the seconds per call of each function in each round. Every function has been called before.

    Each round measures all functions once, in random order; a short one is repeated for `options.seconds`.
    """
    clock = cuda_seconds if options.device.startswith("cuda") else partial(_seconds, device=options.device)
    repeats = {key: max(1, int(options.seconds / max(clock(f, 1), 1e-6))) for key, f in functions.items()}
    order, times = list(functions), {key: [] for key in functions}  # type: ignore[var-annotated]
    shuffle = random.Random(options.seed).shuffle
    for i in range(options.rounds):
        shuffle(order)
        for key in order:
            times[key].append(clock(functions[key], repeats[key]))
        report(f"round {i + 1} of {options.rounds}")
    return times


def _seconds(function: Callable[[], object], repeats: int, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    synchronize(device)
    return (time.perf_counter() - start) / repeats


def synchronize(device: str) -> None:
    """Wait until the device has done its work: on a GPU calls return before that."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def cuda_seconds(function: Callable[[], object], repeats: int) -> float:
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


def cuda_graph(function: Callable[[], object]) -> Callable[[], object]:
    """Return a function that replays `function` as a CUDA graph: the host launches all its kernels at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # the first calls allocate and compile
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()

    def replay() -> None:
        graph.replay()
        _ = function  # keeps the tensors alive that the graph reads

    return replay


def matrix_product(dtype: str, device: str) -> tuple[Callable[[], object], int]:
    """Return a function for a large matrix product, whose rate is the machine's peak, and its number of operations."""
    side = 8192 if device.startswith("cuda") else 2048
    kind = TORCH_DTYPES.get(dtype, torch.bfloat16)
    a, b = (torch.randn(side, side).to(device, kind) for _ in range(2))
    return partial(torch.mm, a, b, out=torch.empty_like(a)), 2 * side**3
