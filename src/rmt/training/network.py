"""What a recipe changes about the network itself before it trains, whatever the task."""

import torch
from torch import nn

from rmt.model.rmt import RMT
from rmt.recipes.recipe import Recipe
from rmt.training.distributed.processes import world_size
from rmt.training.distributed.sync_batchnorm import convert_sync_batchnorm


def adapt(model: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """Changes `model` in place. Parameters and buffers are kept, as objects and by name."""
    if recipe.sync_batchnorm and world_size() > 1:
        convert_sync_batchnorm(model, device)
    for backbone in [module for module in model.modules() if isinstance(module, RMT)]:
        backbone.freeze_batchnorm(recipe.freeze_batchnorm)
        backbone.set_grad_checkpointing(recipe.grad_checkpointing)
        if recipe.compile:  # its parts, so that whoever calls them gains: a task may go past the network's `forward`
            for part in (backbone.stem, *backbone.stages):
                part.compile(dynamic=False)
