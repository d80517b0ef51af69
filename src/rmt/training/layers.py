"""The layers of a network in the order of the forward pass, by timm's `group_matcher`: their rates, and freezing."""

from typing import Any

from timm.models import group_parameters
from torch import nn

from rmt.errors import RMTError
from rmt.model.timm_networks import network_name


def layer_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """The factor of the learning rate of each parameter of the backbone, by its id.

    It is `decay` to the power of the number of layers above; everything on top of the backbone counts as one layer.
    """
    backbone = backbone_of(model)
    layers = _layer_numbers(backbone)
    top = max(layers.values()) + 1
    return {id(p): decay ** (top - layers[name]) for name, p in backbone.named_parameters()}


def freeze_stages(model: nn.Module, stages: int) -> None:
    """Exclude the stem and the first `stages` stages of the backbone from training, and put them in eval mode.

    Lightning keeps the mode of each module: it restores what it changes for an evaluation. Raises RMTError when there
    are fewer stages.
    """
    backbone = backbone_of(model)
    ends = _stage_ends(backbone)
    if stages > len(ends):
        raise RMTError(f"--frozen-stages {stages}: the network has {len(ends)} stages")
    layers = _layer_numbers(backbone)
    prefix = f"{ends[stages - 1]}."
    last = max((layer for name, layer in layers.items() if name.startswith(prefix)), default=-1)
    if last < 0:
        raise RMTError(
            f"--frozen-stages: timm does not say which parameters of {network_name(backbone)} belong to a stage"
        )
    for name, parameter in backbone.named_parameters():
        if layers[name] <= last:
            parameter.requires_grad_(False)
    for module in backbone.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()  # its statistics stay, and it drops nothing


def backbone_of(model: nn.Module) -> Any:
    """The backbone of a detector or segmenter; a classifier itself."""
    pyramid = getattr(model, "pyramid", None)
    return model if pyramid is None else pyramid.backbone


def _stage_ends(backbone: Any) -> list[str]:
    """The module with which each stage ends: the last one of each stride from 4 on, or each where all have one stride.

    timm counts parts of the stem, of stride 2, as levels, too.
    """
    levels = [(info["reduction"], info["module"]) for info in backbone.feature_info]
    ends = {stride: module for stride, module in levels if stride >= 4}
    return list(ends.values()) if len(ends) > 1 else [module for _, module in levels]


def _layer_numbers(backbone: Any) -> dict[str, int]:
    """Parameter name -> number of its layer, from 0, the stem. Raises RMTError where timm does not say it."""
    if not hasattr(backbone, "group_matcher"):
        raise RMTError(
            f"timm does not say how the layers of {network_name(backbone)} follow each other: "
            "leave --frozen-stages out, and take --layer-decay 1"
        )
    return group_parameters(backbone, backbone.group_matcher(coarse=False), reverse=True)
