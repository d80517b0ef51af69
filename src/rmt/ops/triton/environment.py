"""Which Triton is installed, and whether it interprets kernels."""

import functools
import importlib.util
import os

import torch


@torch.compiler.assume_constant_result
def interpreted() -> bool:
    """Whether Triton runs kernels in its interpreter, on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@functools.cache
def installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def version() -> tuple[int, ...]:
    """Triton's major and minor version."""
    from triton import __version__

    return tuple(int(part) for part in __version__.split(".")[:2])
