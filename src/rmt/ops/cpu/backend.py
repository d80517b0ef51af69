"""The backend `native`: operations on the CPU by C++ kernels, and which calls they serve.

Equal to `masa.py` in float32, forward and gradients, relative to the largest value: to 1e-5 in float32; in bfloat16 and
float16, whose sums are float32, to 2e-2 and 3e-3. Registered as PyTorch operators, so that
`torch.compile(fullgraph=True)` passes.
"""

import torch

from rmt.ops.call import Call
from rmt.ops.cpu.attention import manhattan_attention as manhattan_attention
from rmt.ops.cpu.build import ELEMENTS, unavailable_reason
from rmt.ops.cpu.depthwise import depthwise_conv as depthwise_conv
from rmt.ops.cpu.linear import linear as linear
from rmt.ops.cpu.linear import slower_than_pytorch
from rmt.ops.cpu.norm import add_layer_norm as add_layer_norm
from rmt.ops.cpu.norm import layer_norm as layer_norm
from rmt.ops.cpu.norm import result_define


def unusable(call: Call) -> str | None:
    """Return why this backend cannot serve a call, or None."""
    if call.device != "cpu":
        return f"it runs on a CPU, not on {call.device}"
    for dtype in call.dtypes:
        if dtype not in ELEMENTS:
            return f"it computes in float32, bfloat16 or float16, not in {dtype}"
    if call.tracing == "export":
        return "an exported program would depend on this machine's compiler"
    if call.config is not None:
        if call.config.tolerance and call.needs_grad:
            return "windows are for inference"
        return _unavailable_reason("planes.cpp", call.dtypes[0], f"HEAD_DIM={call.shape[-1]}")
    if call.op == "depthwise":
        if call.shape[-1] % 16:
            return "the channels are not a multiple of 16"
        return _unavailable_reason("depthwise.cpp", call.dtypes[-1], f"KERNEL={call.kernel_size}")
    if call.tracing != "eager":
        return "PyTorch's compiler fuses it with its neighbours"
    if call.op == "linear":
        if len(set(call.dtypes)) > 1:
            return "its linear has one dtype for all tensors"
        if call.needs_grad and call.dtypes[0] != torch.float32:
            return "PyTorch's is as fast with gradients in 16 bits"
        return slower_than_pytorch(call.dtypes[0])
    if call.needs_grad and not call.affine:
        return "its LayerNorm without scale and shift has no gradient"
    if call.needs_grad and call.dtypes[-1] == torch.float32:
        return "PyTorch's is as fast with gradients in float32"
    if call.shape[-1] % 16:
        return "the channels are not a multiple of 16"
    return _unavailable_reason("norm.cpp", call.dtypes[0], result_define(call.dtypes[-1]))


@torch.compiler.assume_constant_result
def _unavailable_reason(source: str, dtype: torch.dtype, define: str | None = None) -> str | None:
    return unavailable_reason(source, dtype, define)
