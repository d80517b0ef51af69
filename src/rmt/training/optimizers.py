"""AdamW and the cosine schedule, both timm's: what decays, and how the learning rate follows the effective batch."""

import math

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

from rmt.recipes import ClassifyRecipe


def build_optimizer(model: torch.nn.Module, recipe: ClassifyRecipe, lr: float) -> torch.optim.Optimizer:
    """AdamW; everything of one dimension (norms, biases, layer scales) and `model.no_weight_decay()` go undecayed.

    With `layer_decay` < 1 each layer's rate is that of the one above it times the factor.
    """
    return create_optimizer_v2(
        model,
        opt="adamw",
        lr=lr,
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay if recipe.layer_decay < 1 else None,
        # One kernel over all tensors: a third of the time on a CPU (4.8 instead of 13.6 ms for rmt_pico's update). With
        # fp16 it would undo the loss scaling by itself, which Lightning does not allow together with clipping.
        fused=recipe.precision != "fp16",
    )


class CosineSchedule(CosineLRScheduler):
    """timm's cosine with linear warm-up, by weight update: the rate is a function of the update's number alone.

    With `cooldown_epochs` the cosine ends so much earlier, and the rate stays at its minimum.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: ClassifyRecipe, steps_per_epoch: int) -> None:
        total = (recipe.epochs - recipe.cooldown_epochs) * steps_per_epoch
        warmup = min(math.ceil(recipe.warmup_epochs * steps_per_epoch), total - 1)
        super().__init__(
            optimizer,
            t_initial=total,
            lr_min=recipe.min_lr,
            warmup_t=warmup,
            warmup_lr_init=recipe.warmup_lr,
            t_in_epochs=False,
        )
        self.step_update(0)

    def state_dict(self) -> dict:
        """Nothing: the recipe and the update's number say it all."""
        return {}

    def load_state_dict(self, state_dict: dict) -> None:
        """Nothing to load; the next update sets the rate."""


def build_adamw(
    model: torch.nn.Module, lr: float, weight_decay: float, *, decay_norms: bool, fused: bool = True
) -> torch.optim.AdamW:
    """AdamW as METHOD 6 and 7 have it: everything decays, or everything but the parameters of norms."""
    norms = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, _NORMS)
        for parameter in module.parameters(recurse=False)
    }
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # With fp16 the fused kernel would undo the loss scaling, which Lightning does not allow together with clipping.
    groups: list[dict] = [{"params": [p for p in trained if decay_norms or id(p) not in norms]}]
    if not decay_norms:
        groups.append({"params": [p for p in trained if id(p) in norms], "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=lr, weight_decay=weight_decay, fused=fused)


_NORMS = (torch.nn.LayerNorm, torch.nn.GroupNorm, torch.nn.modules.batchnorm._BatchNorm)
