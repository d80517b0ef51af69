"""Two ways to launch a kernel: directly, and from an operator of PyTorch that its compilers see.

Calling an operator through PyTorch's dispatcher takes the host longer than launching its kernels, so eager calls, whose
time the host determines, launch directly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.library import triton_op, wrap_triton

from rmt.ops.triton.environment import interpreted, version

Launch = Callable[..., None]


def directly(kernel, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 3, **constants) -> None:
    """Run `kernel`, whose arguments are tensors and then integers, over `grid`.

    Triton inspects every argument to find the compiled kernel that fits, which takes longer than most kernels run. A
    call that differs from an earlier one in addresses alone is sent to the same compiled kernel at once.
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
    with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device, wherever the tensors are
        if known is not None:
            compiled, rest = known
            compiled[(*grid, 1, 1)[:3]](*args, *rest)  # a compiled kernel needs all three
            return
        compiled = kernel[grid](*args, **constants, num_warps=num_warps, num_stages=num_stages)
    if version() >= (3, 3):  # compiled kernels of older versions take no constants
        if len(_known) >= MAX_KNOWN:  # images of more and more sizes
            _known.clear()
        _known[kind] = compiled, [constants[name] for name in kernel.arg_names[len(args) :]]


_known: dict[tuple, tuple[Any, list]] = {}
MAX_KNOWN = 4096


def traceably(kernel, grid: tuple[int, ...], *args, num_warps: int, num_stages: int = 3, **options) -> None:
    """Run `kernel` over `grid`, or add it to the graph that is being traced."""
    if interpreted():
        kernel[grid](*args, **options)
    else:
        wrap_triton(kernel)[grid](*args, **options, num_warps=num_warps, num_stages=num_stages)


def operator(name: str, fake: Callable) -> Callable[[Callable], Any]:
    """Register a function that launches kernels traceably as the operator `rmt::name`.

    For a GPU, compilers trace into the function, and its kernels become part of the graph. Triton's interpreter needs
    values, which tracing does not have: there `fake` computes outputs of the same shapes and dtypes.
    """

    def register(function: Callable) -> Any:
        if not interpreted():
            return triton_op(f"rmt::{name}", function, mutates_args=())
        op = torch.library.custom_op(f"rmt::{name}", function, mutates_args=())
        op.register_fake(fake)
        return op

    return register
