"""BatchNorm whose statistics are those of the global batch, on any device.

PyTorch's SyncBatchNorm runs on accelerators only and raises on CPU tensors. There ours takes its place: the same names
in the state dict, the same numbers, by two all-reduces that autograd knows how to differentiate.
"""

from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d over all processes: (B, C, h, w) -> (B, C, h, w), B may differ between processes.

    Outside of training, or in a single process, it is BatchNorm2d. As there, the statistics of half-precision maps are
    computed in float32, and the answer is in the maps' own precision.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized() and dist.get_world_size() > 1):
            return super().forward(x)
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # bf16 counts to 256 and no further
        count = torch.tensor([x.numel() / x.shape[1]], dtype=x.dtype, device=x.device)
        *total, n = _sum(torch.cat([x.sum((0, 2, 3)), count])).split([x.shape[1], 1])
        mean = total[0] / n
        centred = x - mean[:, None, None]
        var = _sum(centred.square().sum((0, 2, 3))) / n  # from the centred values: no cancellation
        self._track(mean.detach(), (var * n / (n - 1)).detach())
        out = centred * (var + self.eps).rsqrt()[:, None, None]
        if self.affine:
            out = out * self.weight[:, None, None] + self.bias[:, None, None]
        return out.to(dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, unbiased_var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(unbiased_var, momentum)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Each one's loss depends on each one's summand, so the gradients are summed too."""

    @staticmethod
    def forward(ctx: Any, summand: Tensor) -> Tensor:
        return _reduced(summand)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _reduced(gradient)


def _reduced(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(tensor)
    return tensor


def _sum(summand: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(summand))


def synchronise_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with every BatchNorm2d synchronised over processes: PyTorch's own on an accelerator, ours on the CPU.

    Parameters and buffers are kept, as objects and by name.
    """
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name, child in model.named_children():
        if type(child) is nn.BatchNorm2d:
            setattr(model, name, _cpu_sync(child))
        else:
            synchronise_batchnorm(child, device)
    return model


def _cpu_sync(norm: nn.BatchNorm2d) -> CPUSyncBatchNorm2d:
    synced = CPUSyncBatchNorm2d(
        norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats, device="meta"
    )
    synced._parameters = norm._parameters
    synced._buffers = norm._buffers
    return synced.train(norm.training)
