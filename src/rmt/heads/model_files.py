"""Model files of detectors and segmenters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from rmt.errors import RMTError
from rmt.heads.detection import MaskRCNN, RetinaNet, detector
from rmt.heads.segmentation.segmenter import Segmenter, segmenter
from rmt.model import RMT, read_metadata, resolve_checkpoint, save_checkpoint
from rmt.model.checkpoints import building_from, checked_args, load_meta_model, model_arguments
from rmt.model.rebuild import rebuild
from rmt.model.state_dicts import check_fit

Model = RetinaNet | MaskRCNN | Segmenter


def file_facts(model: Model) -> dict[str, Any]:
    """Return the arguments of `save_checkpoint` from which `load_model` rebuilds the network.

    Returns:
        task, model_name, model_args, head, head_args.
    Raises:
        RMTError: the backbone was not built by `rmt.create_model`, so its name is not known.
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
    """Write a detector or segmenter to one file; `kwargs` are those of `save_checkpoint` (classes, metrics, …)."""
    save_checkpoint(model, path, **file_facts(model) | kwargs)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[Model, dict[str, Any]]:
    """Load the detector or segmenter of a model file or run folder.

    Shapes are compared before memory is allocated, so a file cannot request more memory than its own size.

    Returns:
        the network in eval mode, and the metadata of the file.
    Raises:
        RMTError: no such file, not a detector or segmenter, or names and shapes do not match.
    """
    path = resolve_checkpoint(path)
    metadata = read_metadata(path)
    if metadata["task"] not in ("detect", "segment"):
        raise RMTError(f"{path} is a model for the task {metadata['task']!r}; this call loads detectors and segmenters")
    state = safetensors.torch.load_file(path)
    with building_from(path):
        backbone = rebuild(metadata["model"], metadata["model_args"])
        head_args = checked_args(metadata.get("head_args") or {})
        model = _build(metadata["task"], str(metadata.get("head")), backbone, head_args)
    check_fit(model.state_dict(), state, str(path))
    load_meta_model(model, state)
    return model.to(device).eval(), metadata


def _build(task: str, head: str, backbone: RMT, head_args: Mapping[str, Any]) -> Model:
    if task == "detect":
        return detector(head, backbone, **head_args)
    options = {key: value for key, value in head_args.items() if key != "num_classes"}
    return segmenter(head, backbone, head_args.get("num_classes", 150), head_args=options)
