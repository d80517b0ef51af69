"""AdamW and Muon, and which parameters have weight decay."""

from typing import Any

import torch
from timm.optim import create_optimizer_v2, list_optimizers

from rmt.errors import RMTError
from rmt.recipes import ClassifyRecipe, DetectRecipe, SegmentRecipe
from rmt.training.layers import layer_scales


def build_optimizer(model: torch.nn.Module, recipe: ClassifyRecipe, lr: float) -> torch.optim.Optimizer:
    """AdamW or Muon; what has one dimension (norms, biases, layer scales) and `model.no_weight_decay()` go undecayed.

    With `layer_decay` < 1 each layer's rate is that of the one above it times the factor. timm's Muon updates the
    weights of one dimension and the depthwise convolutions by NAdamW. Raises RMTError if this timm has no Muon.
    """
    options: dict[str, Any]
    if recipe.optimizer == "muon":
        name, options = "nmuon", {"momentum": 0.95}
        if not list_optimizers(name):
            raise RMTError("--optimizer muon needs a newer timm: pip install -U timm, or take --optimizer adamw")
    else:
        # One kernel over all tensors: a third of the time on a CPU (4.8 instead of 13.6 ms for rmt_pico's update). With
        # fp16 it would undo the loss scaling by itself, which Lightning does not allow together with clipping.
        name, options = "adamw", {"fused": recipe.precision != "fp16"}
    optimizer = create_optimizer_v2(
        model,
        opt=name,
        lr=lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
        **options,
    )
    if recipe.optimizer == "muon":
        from rmt.training.muon import Muon  # not in every timm

        return Muon(optimizer.param_groups)
    return optimizer


def build_adamw(model: torch.nn.Module, recipe: DetectRecipe | SegmentRecipe, lr: float) -> torch.optim.AdamW:
    """AdamW for detectors and segmenters: weight decay for all parameters, or for all but those of norms.

    With `layer_decay` < 1 each layer of the backbone has the rate of the one above it times the factor.
    """
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    scales = layer_scales(model, recipe.layer_decay) if recipe.layer_decay < 1 else {}
    members: dict[tuple[bool, float], list[torch.nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            decays = recipe.decay_norms or id(parameter) not in norms
            members.setdefault((decays, scales.get(id(parameter), 1.0)), []).append(parameter)
    groups = [
        {"params": parameters, "lr": lr * scale} | ({} if decays else {"weight_decay": 0.0})
        for (decays, scale), parameters in sorted(members.items(), reverse=True, key=lambda item: item[0])
    ]
    # With fp16 the fused kernel would undo the loss scaling, which Lightning does not allow together with clipping.
    return torch.optim.AdamW(groups, lr=lr, weight_decay=recipe.weight_decay, fused=recipe.precision != "fp16")


_NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.modules.batchnorm._BatchNorm)
