"""Run by test_triton.py as a program: compiles the Triton kernels for a GPU that need not be there.

The interpreter takes whatever Python does; the compiler does not. `python compile_kernels.py 90` prints a line for
each kernel compiled for compute capability 9.0.
"""

import sys

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rmt.ops.triton import attention_ops, depthwise_ops, norm_ops

KINDS = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


class Compiler:
    """Stands for a launcher: compiles the kernel for what it is called with, as Triton would before running it."""

    def __init__(self, capability: int) -> None:
        self.target, self.done = GPUTarget("cuda", capability, 32), set()

    def __call__(self, kernel, grid, *args, num_warps, num_stages=3, maxnreg=None, **constants) -> None:
        signature, attributes = dict.fromkeys(kernel.arg_names, "constexpr"), {}
        for place, (name, value) in enumerate(zip(kernel.arg_names, args, strict=False)):
            if isinstance(value, torch.Tensor):
                signature[name] = KINDS[value.dtype]
            elif value == 1:  # becomes a constant
                constants[name] = 1
                continue
            else:
                assert type(value) is int, f"{name}={value}: numbers that are no integers are to be constants"
                signature[name] = "i32"
            if isinstance(value, torch.Tensor) or value % 16 == 0:
                attributes[place,] = [["tt.divisibility", 16]]
        if (kernel.__name__, str(signature), str(constants)) in self.done:
            return
        self.done.add((kernel.__name__, str(signature), str(constants)))
        source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
        options = dict(num_warps=num_warps, num_stages=num_stages, maxnreg=maxnreg)
        compiled = triton.compile(source, target=self.target, options=options)
        wide = " float64" if ".f64" in compiled.asm["ptx"] else ""
        print(f"{kernel.__module__}.{kernel.__name__} shared={compiled.metadata.shared}{wide}", flush=True)


def attention(launch: Compiler, shape: tuple[int, ...], decomposed: bool, dtype: torch.dtype) -> None:
    _, height, width, heads, channels = shape
    tables = torch.empty(height, width, 1, channels // 2), torch.empty(height, width, 1, channels // 2)
    q, k, v, dout = (torch.empty(shape, dtype=dtype) for _ in range(4))
    constants = (decomposed, True, True, channels**-0.5)
    attention_ops.forward(launch, q, k, v, *tables, torch.empty(heads), None, *constants)
    attention_ops.backward(launch, dout, q, k, v, *tables, torch.empty(heads), *constants)


def main(capability: int) -> None:
    launch = Compiler(capability)
    attention(launch, (1, 32, 32, 1, 32), True, torch.bfloat16)
    attention(launch, (1, 20, 24, 1, 20), False, torch.float16)
    x, weight, bias = torch.empty(1, 14, 14, 64, dtype=torch.bfloat16), torch.empty(64, 1, 3, 3), torch.empty(64)
    depthwise_ops.convolve(launch, x, weight, bias, x, x.dtype, False, False)
    depthwise_ops.image_gradient(launch, x, weight, x, x.dtype, True)
    depthwise_ops.weight_gradients(launch, x, x, 3, True)
    norm_ops.launch_eager = launch
    tokens, one = torch.empty(9, 64, requires_grad=True), torch.ones(64)
    norm_ops.layer_norm_with_gradients(tokens, one, one, 1e-6, torch.bfloat16).sum().backward()
    norm_ops.add_layer_norm(tokens, tokens, 1e-6, tokens.dtype)


if __name__ == "__main__":
    main(int(sys.argv[1]))
