"""What a network costs, by PyTorch's own operator counter."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_macs(model: nn.Module, height: int, width: int) -> int:
    """Multiply-accumulates of one image: convolutions, linear layers and both attention products.

    Elementwise work (norms, softmax, activations, rotary phases) is left out. Nothing is computed: the network's
    shapes are followed on the meta device.
    """
    meta = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, model.in_chans, height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        meta(image)
    return counter.get_total_flops() // 2
