"""Call, the description of one operation from which its backend is chosen, and helpers for tracing, gradients, dtypes
and strides."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

from rmt.errors import RMTError
from rmt.ops.masa import MaSAConfig

Op = Literal["attention", "depthwise", "layer_norm", "linear"]
Tracing = Literal["eager", "func", "fake", "compile", "export"]


class Call(NamedTuple):
    """Everything that the choice of an implementation depends on, as plain data.

    Attributes:
        op: the operation.
        device: type of the input's device.
        dtypes: of q, k and v (attention); otherwise of the input, the weight (if there is one) and the result.
        shape: of the input, channels last; (B, h, w, n, d) for attention.
        needs_grad: whether gradients are going to be computed.
        tracing: see `tracing`.
        config: which attention.
        image_stride: distance between two images in memory, in elements (attention, depthwise).
        kernel_size: of a depthwise convolution.
        affine: whether a LayerNorm has scale and shift.
    """

    op: Op
    device: str
    dtypes: tuple[torch.dtype, ...]
    shape: tuple[int, ...]
    needs_grad: bool
    tracing: Tracing
    config: MaSAConfig | None = None
    image_stride: int = 0
    kernel_size: int = 0
    affine: bool = True


def tracing(x: Tensor) -> Tracing:
    """Whether an operation on x is executed or recorded.

    `"export"`: by `torch.export` or `torch.jit.trace`, whose programs have to run on any machine. `"compile"`: by
    `torch.compile`. `"fake"`: x is a fake tensor, a meta tensor or a tensor subclass, or a TorchDispatchMode (such as
    FlopCounterMode) is active. `"func"`: inside a transform of `torch.func` (vmap, grad, jvp, …) or forward-mode
    differentiation. `"eager"`: none of these.

    PyTorch 2.6 cannot distinguish export from compilation: there `torch.compile` is `"export"`, too.

    Raises:
        RMTError: x is a proxy of `torch.fx.symbolic_trace`.
    """
    if torch.jit.is_tracing():
        return "export"
    if torch.compiler.is_compiling():  # also while exporting
        return "compile" if KNOWS_EXPORT and not _exporting() else "export"
    if torch._C._functorch.peek_interpreter_stack() is not None or forward_ad._current_level >= 0:
        return "func"
    if isinstance(x, torch.fx.Proxy):
        raise RMTError(
            "torch.fx cannot record RMT's stages, whose kernels depend on the sizes of the image: pass "
            'tracer_kwargs={"leaf_modules": [rmt.model.rmt.Stage, rmt.model.rmt.PatchStem]}'
        )
    if type(x) not in (Tensor, torch.nn.Parameter) or _get_current_dispatch_mode() or x.device.type == "meta":
        return "fake"
    return "eager"


KNOWS_EXPORT = hasattr(torch.compiler, "is_exporting")


@torch.compiler.assume_constant_result
def _exporting() -> bool:
    """Evaluated at trace time, not traced: PyTorch 2.11 assumes that `is_exporting` is true in every compilation."""
    return torch.compiler.is_exporting()


def needs_grad(*tensors: Tensor | None) -> bool:
    """Whether autograd records an operation on these tensors."""
    if not torch.is_grad_enabled():
        return False
    return any(t is not None and t.requires_grad for t in tensors)


def result_dtype(x: Tensor) -> torch.dtype:
    """The dtype of a matrix product of x: autocast's, or that of x. Autocast is looked up for CPU and CUDA only."""
    device = x.device.type
    autocast = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocast else x.dtype


def allows_tf32() -> bool:
    """Whether float32 matrix products on CUDA may be computed in TF32."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # PyTorch 2.9: once it is set, reading the older settings raises
        return bool(matmul.fp32_precision == "tf32")
    return torch.get_float32_matmul_precision() != "highest"


def flat_tokens(x: Tensor) -> Tensor:
    """Return x (B, h, w, …, C) if its last dimension is contiguous and the tokens of an image are evenly spaced in
    memory, else a contiguous copy. The kernels address the tokens of an image as one dimension."""
    evenly_spaced = x.shape[1] == 1 or x.stride(1) == x.shape[2] * x.stride(2)
    return x if x.stride(-1) == 1 and evenly_spaced else x.contiguous()
