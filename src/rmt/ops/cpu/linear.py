"""Linear layers on a CPU by oneDNN.

PyTorch's linear copies the bias to every token before it adds the product, and in float32 it takes MKL's product, which
on processors that are not Intel's is slower than oneDNN's.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x·Wᵀ + b: x (…, C), weight (C', C), bias (C',) or None."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@functools.cache
def slower_than_pytorch(dtype: torch.dtype) -> str | None:
    """Return why PyTorch's own linear is to be preferred for a dtype on this machine, or None."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch has no oneDNN"
    if dtype == torch.float32:
        return None if _vendor() == "AuthenticAMD" else "MKL is not slower on this processor"
    supported = dict(bfloat16="_is_mkldnn_bf16_supported", float16="_is_mkldnn_fp16_supported")[str(dtype)[6:]]
    return None if getattr(torch.ops.mkldnn, supported)() else f"oneDNN has no {dtype} on this processor"


def _vendor() -> str | None:
    """The maker of the processor, on Linux on x86."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")), None)
