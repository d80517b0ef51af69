"""Synchronised BatchNorm on any device: the statistics are those of all processes' batches together."""

from typing import Any

import timm.layers
import torch
import torch.distributed as dist
from torch import Tensor, nn

from rmt.training.distributed.processes import world_size


class CPUSyncBatchNorm2d(nn.BatchNorm2d):
    """SyncBatchNorm for CPU tensors: (B, C, H, W) -> (B, C, H, W), B may differ between processes.

    It gives the results of PyTorch's SyncBatchNorm, which raises ValueError for CPU tensors (2.6 to 2.14), as DDP does
    for any subclass of it. Statistics are computed in float32 at least; the output has the input's dtype.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and world_size() > 1):
            return super().forward(x)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        dtype, x = x.dtype, x.to(torch.promote_types(x.dtype, torch.float32))  # bf16 cannot count beyond 256
        count = torch.tensor([x.numel() / x.shape[1]], dtype=x.dtype)
        *total, n = _all_reduce(torch.cat([x.sum((0, 2, 3)), count])).split([x.shape[1], 1])
        mean = total[0] / n
        centred = x - mean[:, None, None]
        var = _all_reduce(centred.square().sum((0, 2, 3))) / n  # of the centred values: no cancellation
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * n / (n - 1), self.momentum)
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        out = centred * (var + self.eps).rsqrt()[:, None, None]
        return (out * self.weight[:, None, None] + self.bias[:, None, None]).to(dtype)


class CPUSyncBatchNormAct2d(CPUSyncBatchNorm2d):
    """The same for timm's BatchNorm that is followed by an activation."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class _AllReduce(torch.autograd.Function):
    """The sum over all processes. Its gradient is summed over them too: each one's loss depends on each one's input."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(x)
        return x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _AllReduce.forward(ctx, grad)


_all_reduce = _AllReduce.apply


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """`model` with every BatchNorm synchronised; parameters and buffers stay the same objects under the same names."""
    if device.type != "cpu":
        return timm.layers.convert_sync_batchnorm(model)
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = CPUSyncBatchNorm2d
        elif type(module) is timm.layers.BatchNormAct2d:
            module.__class__ = CPUSyncBatchNormAct2d  # type: ignore[assignment]
    return model
