"""Two ways to a kernel: directly, and as an operator of PyTorch that its compilers see.

An operator's way through PyTorch's dispatcher takes the host longer than launching its kernels, so that eager calls,
which wait for the host, go directly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.library import triton_op, wrap_triton

from rmt.ops.triton.environment import interpreted, version

Launch = Callable[..., None]


def directly(kernel, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 3, **constants) -> None:
    """Runs `kernel`, whose arguments are tensors and then integers, over `grid`.

    Triton looks at every argument to find what it has compiled for such, which takes longer than most kernels. A call
    that differs from an earlier one in nothing but addresses goes to the same compiled kernel at once.
    """
    if interpreted():
        kernel[grid](*args, **constants)
        return
    tensors = [arg for arg in args if type(arg) is not int]
    kind = (
        *(kernel, tensors[0].device, num_warps, num_stages),
        *constants.values(),
        *args[len(tensors) :],
        *[tensor.dtype for tensor in tensors],
        *[tensor.data_ptr() % 16 == 0 for tensor in tensors],  # Triton's own condition for wide loads
    )
    known = _known.get(kind)
    with torch.cuda.device_of(tensors[0]):  # Triton takes the current device, wherever tensors lie
        if known is not None:
            compiled, rest = known
            compiled[(*grid, 1, 1)[:3]](*args, *rest)  # a compiled kernel needs all three
            return
        compiled = kernel[grid](*args, **constants, num_warps=num_warps, num_stages=num_stages)
    if version() >= (3, 3):  # older compiled kernels take their arguments without the constants
        if len(_known) >= MAX_KNOWN:  # images of ever new sizes
            _known.clear()
        _known[kind] = compiled, [constants[name] for name in kernel.arg_names[len(args) :]]


_known: dict[tuple, tuple[Any, list]] = {}
MAX_KNOWN = 4096


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
