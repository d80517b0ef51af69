"""Two ways to launch a kernel: at once (`launch_eager`), and from a PyTorch operator that `torch.compile` can trace
(`launch_traced`).

Calling an operator through PyTorch's dispatcher takes the host longer than launching its kernels, so eager calls, which
are often limited by the host, do not use the operators.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.library import triton_op, wrap_triton

from rmt.ops.triton.environment import interpreted, version

Launch = Callable[..., None]


def launch_eager(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int,
    num_stages: int = 3,
    maxnreg: int | None = None,
    **constants: Any,
) -> None:
    """Run `kernel`, whose arguments are tensors and then integers, over `grid`, with at most `maxnreg` registers.

    Triton inspects every argument to find the compiled kernel that fits, which takes longer than most kernels run. A
    call that differs from an earlier one only in addresses is sent to the same compiled kernel at once.
    """
    if interpreted():
        kernel[grid](*args, **constants)
        return
    tensors = [arg for arg in args if type(arg) is not int]
    cache_key = (
        *(kernel, tensors[0].device, num_warps, num_stages, maxnreg),
        *constants.values(),
        *args[len(tensors) :],
        *[tensor.dtype for tensor in tensors],
        *[tensor.data_ptr() % 16 == 0 for tensor in tensors],  # Triton's own condition for wide loads
    )
    known = _compiled.get(cache_key)
    with torch.cuda.device_of(tensors[0]):  # Triton launches on the current device, wherever the tensors are
        if known is not None:
            compiled, rest = known
            compiled[(*grid, 1, 1)[:3]](*args, *rest)  # a compiled kernel needs three grid dimensions
            return
        options = dict(num_warps=num_warps, num_stages=num_stages) | (dict(maxnreg=maxnreg) if maxnreg else {})
        compiled = kernel[grid](*args, **constants, **options)
    if version() >= (3, 3):  # compiled kernels of older versions take no constants
        if len(_compiled) >= MAX_COMPILED:  # bounds the memory when image sizes keep changing
            _compiled.clear()
        _compiled[cache_key] = compiled, [constants[name] for name in kernel.arg_names[len(args) :]]


_compiled: dict[tuple[Any, ...], tuple[Any, list[Any]]] = {}
MAX_COMPILED = 4096


def launch_traced(
    kernel: Any,
    grid: tuple[int, ...],
    *args: Any,
    num_warps: int,
    num_stages: int = 3,
    maxnreg: int | None = None,
    **options: Any,
) -> None:
    """Run `kernel` over `grid`, or add it to the graph that is being traced, which takes no `maxnreg`."""
    if interpreted():
        kernel[grid](*args, **options)
    else:
        wrap_triton(kernel)[grid](*args, **options, num_warps=num_warps, num_stages=num_stages)


def operator(name: str, fake: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Register a function that launches kernels by `launch_traced` as the operator `rmt::name`.

    For a GPU, compilers trace into the function, and its kernels become part of the graph. Triton's interpreter needs
    values, which fake tensors do not have: there `fake` returns outputs of the same shapes and dtypes.
    """

    def register(function: Callable[..., Any]) -> Any:
        if not interpreted():
            return triton_op(f"rmt::{name}", function, mutates_args=())
        op = torch.library.custom_op(f"rmt::{name}", function, mutates_args=())
        op.register_fake(fake)
        return op

    return register
