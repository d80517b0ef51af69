"""`python benchmarks/kernels.py`: check the Triton kernels on this GPU, and compare their times with lower bounds.

Every kernel first runs on random inputs. Its error against float64 is ‖found − exact‖ / ‖exact‖. Its lower bound
("floor") is the larger of two times: the bytes that it must move (each input read once, each output written once) over
the bandwidth of a large copy, and its operations over the rate of a large matrix product, both measured in the same
run. Times are medians of CUDA graph replays over inputs that together exceed the cache. Needs only torch and Triton.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from kernel_problems import Problem, problems
from torch import Tensor

from rmt.benchmark.machine import describe
from rmt.benchmark.timing import cuda_graph, cuda_seconds, matrix_product
from rmt.errors import RMTError

CACHE_BYTES = 200e6  # total size of the inputs of one replay, at least


def measure(problem: Problem, dtype: torch.dtype, bandwidth: float, rate: float, seed: int) -> dict[str, Any]:
    """Return error and times of one problem."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def random_inputs(images: int | None = None) -> tuple[Tensor, ...]:
        shapes = [(images or shape[0], *shape[1:]) for shape in problem.inputs]
        return tuple(torch.randn(shape, generator=generator, device="cuda").to(dtype) for shape in shapes)

    few = random_inputs(2)
    exact = _tensors(problem.reference(*(t.double() for t in few)))
    found, again = (_tensors(problem.ours(*few)) for _ in range(2))
    inputs = [random_inputs()]
    inputs += [random_inputs() for _ in range(int(min(8, CACHE_BYTES // sum(t.nbytes for t in inputs[0]))))]
    moving, computing = problem.bytes(dtype) / bandwidth, problem.operations / rate
    floor, seconds = max(moving, computing), _seconds(problem.ours, inputs)
    return dict(
        problem=problem.name,
        dtype=str(dtype).removeprefix("torch."),
        error=max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)),
        repeats=all(torch.equal(a, b) for a, b in zip(found, again, strict=True)),
        floor=floor,
        bound="bytes" if moving >= computing else "operations",
        seconds=seconds,
        plain_seconds=_seconds(problem.reference, inputs),
        fraction_of_floor=floor / seconds if seconds else None,
    )


def _seconds(function: Callable[..., Any], inputs: list[tuple[Tensor, ...]]) -> float | None:
    """Median seconds per call, or None if memory is not sufficient."""

    def run() -> None:
        with torch.no_grad():
            for tensors in inputs:
                function(*tensors)

    try:
        replay = cuda_graph(run)
    except torch.OutOfMemoryError:
        return None
    return median(cuda_seconds(replay, 1) for _ in range(11)) / len(inputs)


def _tensors(value: Any) -> list[Tensor]:
    return [value.detach()] if isinstance(value, Tensor) else [t.detach() for t in value]


def main(argv: list[str] | None = None) -> None:
    """Run one command line. The exit code is 1 if a kernel is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images at 224²")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="measure the problems whose names contain this")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    try:
        content = run(options.batch, getattr(torch, options.dtype), options.seed, options.only)
    except RMTError as error:
        sys.exit(f"kernels.py: {error}")
    if options.output:
        options.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if not content["right"]:
        sys.exit(1)


def run(batch: int, dtype: torch.dtype, seed: int, only: str = "") -> dict[str, Any]:
    """Measure the problems with `only` in their names, and print them one by one. Raises RMTError without a GPU."""
    if not torch.cuda.is_available():
        raise RMTError("this machine has no CUDA device that PyTorch can use")
    product, operations = matrix_product(str(dtype).removeprefix("torch."), "cuda")
    bandwidth, rate = _bandwidth(), operations / min(cuda_seconds(product, 5) for _ in range(5))
    print(f"{bandwidth / 1e12:.2f} TB/s, {rate / 1e12:.0f} TFLOP/s")
    print(f"{'µs':>8} {'floor':>8} {'of floor':>8} {'plain':>8} {'error':>8}  problem")
    limit = 1e-4 if dtype == torch.float32 else 2e-2
    results = []
    for problem in (p for p in problems(batch) if only in p.name):
        found = measure(problem, dtype, bandwidth, rate, seed)
        results.append(found)
        slow = found["plain_seconds"]
        print(
            f"{found['seconds'] * 1e6:8.1f} {found['floor'] * 1e6:8.1f} {found['fraction_of_floor']:8.0%} "
            f"{'–' if slow is None else f'{slow * 1e6:.1f}':>8} {found['error']:8.1e}  {problem.name}"
            f"{'' if found['repeats'] else ', NOT DETERMINISTIC'}{'' if found['error'] < limit else ', WRONG'}",
            flush=True,
        )
    passed = all(found["error"] < limit and found["repeats"] for found in results)
    return dict(
        machine=describe("cuda"), bandwidth=bandwidth, rate=rate, batch=batch, seed=seed, right=passed, results=results
    )


def _bandwidth() -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    copy = partial(torch.empty_like(source).copy_, source)
    return 2 * source.nbytes / min(cuda_seconds(copy, 10) for _ in range(5))


if __name__ == "__main__":
    main()
