"""Runtimes: what runs a network on a batch of preprocessed images."""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rmt.device import autocast

Images = Tensor | list[Tensor]


class Runtime(Protocol):
    """Runs one network. Predictors and evaluators call nothing else of it, so that exported files can serve too.

    Attributes:
        device: where the network runs; images are moved there.
        precision: "fp32", "bf16" or "fp16".
        num_classes: classes that the network distinguishes.
    """

    device: torch.device
    precision: str
    num_classes: int

    def __call__(self, images: Images, **arguments: Any) -> Any:
        """Returns the network's output for a batch (B, 3, H, W), or for a list of B images (3, h, w)."""


class TorchRuntime:
    """Runs a PyTorch module in eval mode, without gradients.

    Args:
        model: the network; it is moved to `device`.
        device: where to compute.
        precision: "fp32", "bf16" or "fp16"; the last two by autocast.
    """

    def __init__(self, model: nn.Module, device: torch.device, precision: str = "fp32") -> None:
        self.model: nn.Module = model.to(device).eval()
        self.device = device
        self.precision = precision
        self.num_classes: int = int(model.num_classes)  # type: ignore[arg-type]

    def __call__(self, images: Images, **arguments: Any) -> Any:
        return self.run(self.model, images, **arguments)

    @torch.inference_mode()
    def run(self, function: Callable[..., Any], images: Images, **arguments: Any) -> Any:
        """Returns what a function of the network returns for images, on the device and in the precision."""
        if isinstance(images, Tensor):
            images = images.to(self.device, non_blocking=True)
        else:
            images = [image.to(self.device, non_blocking=True) for image in images]
        with autocast(self.precision, self.device):
            return function(images, **arguments)
