"""Where and in which precision a network runs: `--device` and `--precision`, for training and inference alike."""

import contextlib
import functools
from pathlib import Path
from typing import Any

import torch

from rmt.errors import RMTError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str) -> torch.device:
    """The device of that name; "auto" takes CUDA, else MPS, else the CPU.

    Raises:
        RMTError: the name is unknown, or PyTorch does not find the device.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RMTError("--device cuda: PyTorch sees no CUDA device here; use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise RMTError("--device mps: PyTorch sees no Apple GPU here; use --device cpu")
    if device not in ("cpu", "cuda", "mps"):
        raise RMTError(f"--device {device!r} is none of auto, cpu, cuda, mps")
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> str:
    """The precision, "auto" replaced by bf16 on CUDA and fp32 elsewhere.

    Raises:
        RMTError: fp16 on a CPU, where PyTorch has no kernels for it.
    """
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise RMTError("--precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return precision


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16; False where the system does not list them."""
    try:
        listed = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    except OSError:
        return False
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(listed)


def autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """The context for a forward pass in that precision ("fp32", "bf16" or "fp16") outside Lightning's Trainer."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])
