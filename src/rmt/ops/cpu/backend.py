"""The backend `native`: operations on the CPU by C++ kernels, and which calls they serve.

Equal to `masa.py` to 1e-5 (relative to the largest value), forward and gradients, in float32. Registered as PyTorch
operators, so that `torch.compile(fullgraph=True)` passes.
"""

import torch

from rmt.ops.call import Call
from rmt.ops.cpu.attention import manhattan_attention
from rmt.ops.cpu.build import unavailable_reason
from rmt.ops.cpu.depthwise import depthwise_conv

__all__ = ["depthwise_conv", "manhattan_attention", "unusable"]


def unusable(call: Call) -> str | None:
    """Return why this backend cannot serve a call, or None."""
    if call.device != "cpu":
        return f"it runs on a CPU, not on {call.device}"
    for dtype in call.dtypes:
        if dtype != torch.float32:
            return f"it computes in float32, not in {dtype}"
    if call.tracing == "export":
        return "an exported program would depend on this machine's compiler"
    if call.config is not None:
        if call.config.tolerance and call.needs_grad:
            return "windows are for inference"
        return _unavailable_reason("planes.cpp", f"HEAD_DIM={call.shape[-1]}")
    if call.op == "depthwise":
        if call.shape[-1] % 16:
            return "the channels are not a multiple of 16"
        return _unavailable_reason("depthwise.cpp", f"KERNEL={call.kernel_size}")
    return f"it has no {call.op}"


@torch.compiler.assume_constant_result
def _unavailable_reason(source: str, define: str) -> str | None:
    return unavailable_reason(source, define)
