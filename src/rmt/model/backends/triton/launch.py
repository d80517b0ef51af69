"""Two ways to a kernel: directly, and as an operator of PyTorch that its compilers see.

An operator's way through PyTorch's dispatcher takes the host longer than launching its kernels, so that eager calls,
which wait for the host, go directly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.library import triton_op, wrap_triton

from rmt.model.backends.triton import interpreted

Launch = Callable[..., None]


def directly(kernel, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 3, **options) -> None:
    """Runs `kernel` over `grid`, on the device of its first argument: Triton itself takes the current one."""
    if interpreted():
        kernel[grid](*args, **options)
        return
    with torch.cuda.device_of(args[0]):
        kernel[grid](*args, **options, num_warps=num_warps, num_stages=num_stages)


def traceably(kernel, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 3, **options) -> None:
    """Runs `kernel` over `grid`, or makes it part of the graph that is being captured."""
    if interpreted():
        kernel[grid](*args, **options)
    else:
        wrap_triton(kernel)[grid](*args, **options, num_warps=num_warps, num_stages=num_stages)


def operator(name: str, fake: Callable) -> Callable[[Callable], Any]:
    """Registers a function that launches kernels traceably as `rmt::name`; `fake` makes outputs of the right shapes.

    The interpreter needs values, which a compiler that traces into the function does not have: there `fake` stands for
    it. Compiled for a GPU, the kernels become part of the graph.
    """

    def register(function: Callable) -> Any:
        if not interpreted():
            return triton_op(f"rmt::{name}", function, mutates_args=())
        op = torch.library.custom_op(f"rmt::{name}", function, mutates_args=())
        op.register_fake(fake)
        return op

    return register
