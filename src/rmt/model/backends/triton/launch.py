"""Kernels as operators of PyTorch: seen into by its compilers on a GPU, opaque in Triton's interpreter."""

from collections.abc import Callable

import torch
from torch.library import triton_op, wrap_triton

from rmt.model.backends.triton import interpreted


def operator(name: str, fake: Callable) -> Callable[[Callable], Callable]:
    """Registers a function that launches kernels as `rmt::name`; `fake` makes empty outputs of the right shapes.

    The interpreter needs values, which a compiler that traces into the function does not have: there `fake` stands for
    it. Compiled for a GPU, the kernels become part of the graph.
    """

    def register(function: Callable) -> Callable:
        if not interpreted():
            return triton_op(f"rmt::{name}", function, mutates_args=())
        op = torch.library.custom_op(f"rmt::{name}", function, mutates_args=())
        op.register_fake(fake)
        return op

    return register


def launch(kernel, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 3, **options) -> None:
    """Runs `kernel` over `grid`."""
    if interpreted():
        kernel[grid](*args, **options)
    else:
        wrap_triton(kernel)[grid](*args, **options, num_warps=num_warps, num_stages=num_stages)
