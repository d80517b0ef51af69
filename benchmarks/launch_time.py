"""The host's time for one launch of a Triton kernel, by Triton itself and by `launch.launch_eager`.

    python benchmarks/launch_time.py benchmarks/gpu/launch-time.json

It is measured for a row pass and a column pass of attention. Without a GPU a stub replaces the driver: kernels are
compiled for an H100, and launching one does nothing, so that the result is Python's part only.
"""

import contextlib
import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.compiler import CompiledKernel

from rmt.benchmark.machine import describe
from rmt.ops.triton import attention_ops, launch

ROUNDS, CALLS = 15, 300


class Driver(DriverBase):
    """A driver without a GPU, which reports an H100."""

    def __init__(self) -> None:
        pass

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_benchmarker(self) -> None:
        return None

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


def install_stub() -> None:
    """Replace the driver by the stub, and a launch by nothing."""
    triton.runtime.driver.set_active(Driver())
    kernel: Any = CompiledKernel
    kernel._init_handles = lambda self: setattr(self, "function", 0)
    kernel.run = property(lambda self: lambda *args: None)
    cuda: Any = torch.cuda
    cuda.device_of = lambda tensor: contextlib.nullcontext()


def triton_itself(kernel, grid, *args, num_warps: int, num_stages: int = 3, **constants) -> None:
    kernel[grid](*args, **constants, num_warps=num_warps, num_stages=num_stages)


def nothing(kernel, grid, *args, **options) -> None:
    pass


def main(output: Path) -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        install_stub()
    # small enough that the kernels take less time than their launches, which the host would otherwise wait for
    q, k, v = (torch.zeros(1, 56, 56, 4, 16, dtype=torch.bfloat16, device=device) for _ in range(3))
    tables = [torch.zeros(shape, device=device) for shape in ((56, 56, 1, 8), (56, 56, 1, 8), (4,))]
    rounds: dict[str, list[float]] = {"nothing": [], "triton_itself": [], "directly": []}
    ways = {"nothing": nothing, "triton_itself": triton_itself, "directly": launch.launch_eager}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            for _ in range(CALLS):
                attention_ops.forward(way, q, k, v, *tables, None, True, True, True, 1.0)
            if device == "cuda":
                torch.cuda.synchronize()
            rounds[name].append((time.perf_counter() - start) / CALLS / 2 * 1e6)
    medians = {name: median(times[1:]) for name, times in rounds.items()}  # the first round compiles
    found = dict(
        command=f"python benchmarks/launch_time.py {output}",
        unit="µs of the host per launch, with the preparation of its arguments; `nothing` is that preparation alone",
        triton=triton.__version__,
        machine=describe(device),
        medians=medians,
        rounds={name: times[1:] for name, times in rounds.items()},
    )
    output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(medians)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
