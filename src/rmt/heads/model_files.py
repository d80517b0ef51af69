"""Model files of detectors and segmenters."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from rmt.errors import RMTError
from rmt.heads.detection import MaskRCNN, RetinaNet, detector
from rmt.heads.segmentation.segmenter import Segmenter, segmenter
from rmt.model import save_checkpoint
from rmt.model.checkpoints import checked_args, model_arguments
from rmt.model.rebuild import load_model_file, rebuild

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
    """Write a detector or segmenter to one model file, from which `load_model` rebuilds it.

    Args:
        model: from `rmt.detector` or `rmt.segmenter`, on a backbone of `rmt.create_model`.
        path: the `.safetensors` file.
        kwargs: those of `rmt.save_checkpoint`: `classes`, `preprocessing`, `metrics`, ….
    Raises:
        RMTError: the file cannot be written, or the name of the backbone is not known.
    """
    save_checkpoint(model, path, **file_facts(model) | kwargs)


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[Model, dict[str, Any]]:
    """Rebuild the detector or segmenter of a model file or run folder, with its weights.

    Args:
        path: the file, or a run folder, whose best weights are read.
        device: where the network is put.
    Returns:
        the network in eval mode, and the metadata of the file.
    Raises:
        RMTError: no such file, a file of another task, or names and shapes that do not match.
    """
    return load_model_file(path, device, build_from_metadata, ("detect", "segment"), "detectors and segmenters")


def build_from_metadata(metadata: dict[str, Any], names: Collection[str] = ()) -> Model:
    """Build the detector or segmenter that a model file's metadata describe, with random weights.

    Args:
        metadata: from `rmt.model.read_metadata`.
        names: the names of the weights; not used here.
    Raises:
        RMTError: the metadata describe no detector or segmenter of this package.
    """
    backbone, head = rebuild(metadata["model"], metadata["model_args"]), str(metadata.get("head"))
    head_args = checked_args(metadata["head_args"])
    if metadata["task"] == "detect":
        return detector(head, backbone, **head_args)
    num_classes = head_args.pop("num_classes", 150)
    return segmenter(head, backbone, num_classes, head_args=head_args)
