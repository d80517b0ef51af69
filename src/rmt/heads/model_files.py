"""Model files of detectors and segmenters: what has to be written beside the weights, and the network from a file."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from rmt.errors import RMTError
from rmt.heads.detection import MaskRCNN, RetinaNet, detector
from rmt.heads.segmentation.segmenter import Segmenter, segmenter
from rmt.model import read_metadata, resolve_checkpoint, save_checkpoint
from rmt.model.checkpoints import building_from, checked_args, load_meta_model, model_arguments
from rmt.model.state_dicts import check_fit
from rmt.model.variants import rebuild

Model = RetinaNet | MaskRCNN | Segmenter


def _detector(head: str, backbone: Any, arguments: Mapping[str, Any]) -> Model:
    return detector(head, backbone, **arguments)


def _segmenter(head: str, backbone: Any, arguments: Mapping[str, Any]) -> Model:
    rest = {key: value for key, value in arguments.items() if key != "num_classes"}
    return segmenter(head, backbone, arguments.get("num_classes", 150), head_args=rest)


_BUILDERS: dict[str, Callable[[str, Any, Mapping[str, Any]], Model]] = {"detect": _detector, "segment": _segmenter}


def file_facts(model: Model) -> dict[str, Any]:
    """The arguments of `save_checkpoint` by which `load_model` builds the network again.

    Returns:
        task, model_name, model_args, head, head_args.
    Raises:
        RMTError: the backbone was not made by `rmt.create_model`, so no name says what it is.
    """
    backbone = model.pyramid.backbone
    name = (getattr(backbone, "pretrained_cfg", None) or {}).get("architecture")
    if name is None:
        raise RMTError("the backbone has no name: build it with rmt.create_model to write a model file")
    return dict(
        task="segment" if isinstance(model, Segmenter) else "detect",
        model_name=name,
        model_args=model_arguments(backbone),
        head=model.head_name,
        head_args={"num_classes": model.num_classes, **model.head_args},
    )


def save_model(model: Model, path: str | Path, **kwargs: Any) -> None:
    """Write a detector or segmenter as one file; `kwargs` as `save_checkpoint` takes them (classes, metrics, …)."""
    save_checkpoint(model, path, **file_facts(model) | kwargs)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[Model, dict[str, Any]]:
    """The detector or segmenter in a model file or run folder, in eval mode, and the file's metadata.

    Shapes are compared before any memory is taken, so a file cannot ask for more than it holds.

    Raises:
        RMTError: no such file, not one of a detector or segmenter, or names and shapes do not fit.
    """
    path = resolve_checkpoint(path)
    metadata = read_metadata(path)
    if metadata["task"] not in _BUILDERS:
        raise RMTError(f"{path} is a model for the task {metadata['task']!r}; this call loads detectors and segmenters")
    state = safetensors.torch.load_file(path)
    with building_from(path):
        backbone = rebuild(metadata["model"], metadata["model_args"])
        arguments = checked_args(metadata.get("head_args") or {})
        model: nn.Module = _BUILDERS[metadata["task"]](str(metadata.get("head")), backbone, arguments)
    check_fit(model.state_dict(), state, str(path))
    load_meta_model(model, state)
    return model.to(device).eval(), metadata  # type: ignore[return-value]
