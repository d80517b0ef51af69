"""The network of a run: its name, the weights that it starts from, and what the recipe changes about it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
from torch import nn

from rmt.errors import RMTError
from rmt.model import MAX_DROP_PATH, describe_weights, resolve_checkpoint
from rmt.model.rmt import RMT
from rmt.model.variants import check_name
from rmt.recipes.recipe import Recipe
from rmt.training.distributed.processes import world_size
from rmt.training.distributed.sync_batchnorm import convert_sync_batchnorm
from rmt.training.task import Log

if TYPE_CHECKING:  # classification has no use for detectors and what they import
    from rmt.heads.model_files import Model

R = TypeVar("R", bound=Recipe)


def resolve_network(recipe: R) -> R:
    """Returns the recipe with the name of its network filled in, and a drop path of "auto": see `MAX_DROP_PATH`.

    Raises RMTError as `resolve_model` does.
    """
    model = resolve_model(recipe)
    drop_path = MAX_DROP_PATH.get(model, 0.0) if recipe.drop_path == "auto" else recipe.drop_path
    return replace(recipe, model=model, drop_path=drop_path)


def resolve_model(recipe: Recipe) -> str:
    """The name of the recipe's network; for "auto" that of the weights, or without weights one that suits the device.

    That is rmt_tiny on a GPU, and rmt_pico on a CPU, where rmt_tiny takes hours. Raises RMTError for an unknown name,
    and when the weights do not say which network they are for.
    """
    if recipe.model != "auto":
        check_name(recipe.model)
        return recipe.model
    if not recipe.weights:
        return "rmt_pico" if recipe.device == "cpu" else "rmt_tiny"
    own = describe_weights(recipe.weights)
    if own is None:
        raise RMTError(f"{recipe.weights} does not say which network it is for: name it, e.g. --model rmt_tiny")
    return str(own["model"])


def other_classes(own: dict[str, Any], classes: Sequence[str]) -> bool:
    """Whether a file of ours names other classes than these: as many outputs would mean something else."""
    return bool(own["classes"]) and tuple(own["classes"]) != tuple(classes)


def load_backbone_or_all(model: "Model", weights: str, classes: Sequence[str], log: Log) -> None:
    """Loads weights into a detector or segmenter: all of them where head and classes match, else the backbone.

    The pyramid's norms come with the backbone of any detector or segmenter. What was taken is said in one line. Raises
    RMTError where the backbone is another network's.
    """
    path = resolve_checkpoint(weights)
    own = describe_weights(path)
    if own is not None and own.get("head") == model.head_name and not other_classes(own, classes):
        found, state = safetensors.torch.load_file(path), model.state_dict()
        if found.keys() == state.keys() and all(found[name].shape == value.shape for name, value in state.items()):
            model.load_state_dict(found)
            log(f"starting from the whole {model.head_name} in {path}")
            return
    fresh_norms = model.pyramid.load_backbone(path)
    log(f"starting from the backbone in {path}; the head{' and the pyramid norms are' if fresh_norms else ' is'} new")


def configure_network(model: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """Changes `model` in place. Parameters and buffers are kept, as objects and by name.

    Drop path is set when the network is built, see `tasks/*/build.py`.
    """
    if recipe.sync_batchnorm and world_size() > 1:
        convert_sync_batchnorm(model, device)
    for backbone in [module for module in model.modules() if isinstance(module, RMT)]:
        backbone.freeze_batchnorm(recipe.freeze_batchnorm)
        backbone.set_grad_checkpointing(recipe.grad_checkpointing)
        if recipe.compile:  # its parts, so that whoever calls them gains: a task may go past the network's `forward`
            for part in (backbone.stem, *backbone.stages):
                part.compile(dynamic=False)
