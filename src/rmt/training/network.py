"""The network of a run: its name, the weights that it starts from, and what the recipe changes about it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import safetensors.torch
import torch
from torch import nn

from rmt.errors import RMTError
from rmt.model import MAX_DROP_PATH, describe_weights, resolve_checkpoint
from rmt.model.networks import architecture_arguments, check_name, check_network, compare_arguments, create_network
from rmt.model.rmt import RMT
from rmt.model.timm_networks import require_size, use_running_statistics
from rmt.recipes.model_args import format_model_args, parse_model_args
from rmt.recipes.recipe import Recipe, from_dict, option
from rmt.training.distributed.processes import world_size
from rmt.training.distributed.sync_batchnorm import convert_sync_batchnorm
from rmt.training.layers import backbone_of, freeze_stages
from rmt.training.task import Log

if TYPE_CHECKING:  # classification has no use for detectors and what they import
    from rmt.heads.model_files import Model

R = TypeVar("R", bound=Recipe)


def resolve_network(recipe: R) -> R:
    """Returns the recipe with `model`, `model_args` and `drop_path` filled in.

    - model: for "auto" that of the weights; without weights rmt_tiny on a GPU, and rmt_pico on a CPU, where rmt_tiny
      takes hours;
    - model_args: with a model of "auto", also those of the weights; what the recipe gives takes precedence;
    - drop_path: for "auto" that of the paper, see `MAX_DROP_PATH`; 0 for networks that are not the paper's.

    Raises RMTError for an unknown name or keyword, and for weights that do not say which network they are for.
    """
    model, arguments = recipe.model, parse_model_args(recipe.model_args)
    if model == "auto" and recipe.weights:
        own = describe_weights(recipe.weights)
        if own is None:
            raise RMTError(f"{recipe.weights} does not say which network it is for: name it, e.g. --model rmt_tiny")
        model, arguments = own["model"], architecture_arguments(own) | arguments
    elif model == "auto":
        model = "rmt_pico" if recipe.device == "cpu" else "rmt_tiny"
    check_name(model)
    try:
        check_network(model, arguments)
    except RMTError as error:
        raise RMTError(f"--model-args: {error}") from error
    text = recipe.model_args if arguments == parse_model_args(recipe.model_args) else format_model_args(arguments)
    drop_path = MAX_DROP_PATH.get(model, 0.0) if recipe.drop_path == "auto" else recipe.drop_path
    return replace(recipe, model=model, model_args=text, drop_path=drop_path)


def build_network(recipe: Recipe, image_size: int | None = None) -> Any:
    """Returns the network of a resolved recipe, randomly initialised, with timm's number of classes.

    `image_size`: side of the images, for networks that are built for one; None: images of any size.
    """
    arguments = parse_model_args(recipe.model_args) | {"drop_path_rate": recipe.drop_path}
    network = create_network(recipe.model, arguments, image_size)
    if image_size and not isinstance(network, RMT):
        require_size(network, recipe.model, (image_size, image_size))
    return network


#: The networks that a plan chooses from when the recipe names none and has no weights, the best first.
NETWORKS = ("rmt_tiny", "rmt_pico")
_MACS_PER_PIXEL = {  # in thousands
    "rmt_pico": 4.9,
    "rmt_nano": 15.9,
    "rmt_micro": 26.9,
    "rmt_tiny": 52.6,
    "rmt_small": 95.3,
    "rmt_base": 207.0,
    "rmt_large": 388.0,
}


def relative_work(model: str) -> float:
    """Computation of a network for one pixel, relative to others; that of rmt_small for other names."""
    return _MACS_PER_PIXEL.get(model.removesuffix("_tl"), _MACS_PER_PIXEL["rmt_small"])


def inherit_options(recipe: R, log: Log) -> R:
    """Returns the recipe with the sizes of the run that its weights come from, where it leaves them open.

    Only for weights of the same task, and of the same head; a line names the fields.
    """
    fields = [name for name in recipe.inherited if recipe.is_open(name)]
    own = describe_weights(recipe.weights) if recipe.weights and fields else None  # a resumed run needs no file
    values = (own or {}).get("recipe")
    if not isinstance(values, dict) or values.get("task") != recipe.task:
        return recipe
    kind = [name for name in ("head", "masks") if hasattr(recipe, name) and not recipe.is_open(name)]
    if any(values.get(name, getattr(recipe, name)) != getattr(recipe, name) for name in kind):
        return recipe
    try:
        before = from_dict(values)
    except (ValueError, TypeError):  # of another version
        return recipe
    found = {name: getattr(before, name) for name in fields if not before.is_open(name)}
    if found:
        log(f"as in {recipe.weights}: " + ", ".join(f"{option(name)} {value}" for name, value in found.items()))
    return recipe.fill_open(**found)


def feature_channels(recipe: Recipe) -> tuple[int, ...]:
    """The channels of the stages of a recipe's network, which must be known."""
    with torch.device("meta"):
        network = create_network(recipe.model, parse_model_args(recipe.model_args))
    return tuple(stage["num_chs"] for stage in network.feature_info)


def require_same_network(recipe: Recipe, original: Recipe) -> None:
    """Raises RMTError when a resumed recipe names another network than that of its checkpoint."""
    if recipe.model != original.model:
        raise RMTError(
            f"--model {recipe.model}: the run has a checkpoint of {original.model}, which another network cannot load; "
            "leave --model out, or start a new run"
        )
    if parse_model_args(recipe.model_args) != parse_model_args(original.model_args):
        raise RMTError(
            f"--model-args {recipe.model_args}: the run has a checkpoint of a network with "
            f"{original.model_args or 'none'}; leave --model-args out, or start a new run"
        )


def other_classes(own: dict[str, Any], classes: Sequence[str]) -> bool:
    """Whether a file of ours names other classes than these: as many outputs would mean something else."""
    return bool(own["classes"]) and tuple(own["classes"]) != tuple(classes)


def log_other_arguments(own: dict[str, Any] | None, network: nn.Module, log: Log) -> None:
    """Logs the arguments in which the network of a file of ours differs from the one that loaded its weights."""
    for key, (theirs, ours) in compare_arguments(own, network).items() if own else ():
        log(f"the weights were trained in a network with {key}={theirs}; this one has {key}={ours}")


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
            log_other_arguments(own, model.pyramid.backbone, log)
            log(f"starting from the whole {model.head_name} in {path}")
            return
    fresh_norms = model.pyramid.load_backbone(path)
    log_other_arguments(own, model.pyramid.backbone, log)
    log(f"starting from the backbone in {path}; the head{' and the pyramid norms are' if fresh_norms else ' is'} new")


def configure_network(model: nn.Module, recipe: Recipe, device: torch.device) -> None:
    """Changes `model` in place. Parameters and buffers are kept, as objects and by name.

    Drop path is set when the network is built, see `tasks/*/build.py`.
    """
    if recipe.sync_batchnorm and world_size() > 1:
        convert_sync_batchnorm(model, device)
    backbone = backbone_of(model)
    if isinstance(backbone, RMT):
        backbone.freeze_batchnorm(recipe.freeze_batchnorm)
        backbone.set_grad_checkpointing(recipe.grad_checkpointing)
        if recipe.compile:  # its parts, so that whoever calls them gains: a task may go past the network's `forward`
            for part in (backbone.stem, *backbone.stages):
                part.compile(dynamic=False)
    else:
        _configure_timm_network(model, backbone, recipe)
    if recipe.frozen_stages:
        freeze_stages(model, recipe.frozen_stages)


def _configure_timm_network(model: nn.Module, backbone: Any, recipe: Recipe) -> None:
    if recipe.freeze_batchnorm:
        use_running_statistics(backbone)  # Lightning keeps the mode of each module
    if recipe.grad_checkpointing:
        try:
            backbone.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise RMTError(f"--grad-checkpointing: {recipe.model} does not support it") from error
    if recipe.compile:  # the pyramid calls other methods than the network's `forward`
        (backbone if backbone is model else model.pyramid).compile(dynamic=False)  # type: ignore[union-attr]
