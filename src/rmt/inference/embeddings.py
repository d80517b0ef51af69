"""Embeddings: the pooled features of a stage, or those that a classifier's last layer sees."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.heads.pyramid import Pyramid

DType = Literal["fp32", "fp16"]
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def embedding_function(model: nn.Module, stage: int | None) -> Callable[[Tensor], Tensor]:
    """Returns the function from normalised images (B, 3, H, W) to features (B, D).

    Args:
        model: a classifier, or a detector or segmenter, of which the backbone is used.
        stage: counted from 1; the mean over height and width of its output. None: of a classifier what its last layer
            sees (timm's `forward_head(…, pre_logits=True)`), of another network its last stage.
    Raises:
        RMTError: the network has no such stage.
    """
    pyramid = next((module for module in model.modules() if isinstance(module, Pyramid)), None)
    backbone: Any = model if pyramid is None else pyramid.backbone
    if pyramid is None and stage is None:
        return lambda images: backbone.forward_head(backbone.forward_features(images), pre_logits=True).flatten(1)
    stages = len(backbone.feature_info)
    number = stages if stage is None else stage
    if not 1 <= number <= stages:
        raise RMTError(f"--stage must lie in 1 to {stages}, the stages of the network, not {number}")

    def pooled(images: Tensor) -> Tensor:
        (features,) = backbone.forward_intermediates(images, indices=[number - 1], intermediates_only=True)
        return features.mean((2, 3))

    return pooled


def convert(features: Tensor, dtype: DType) -> Tensor:
    """Returns the features on the CPU in a dtype. Raises RMTError for an unknown one, or values that it cannot hold."""
    if dtype not in _DTYPES:
        raise RMTError(f"--dtype must be fp32 or fp16, not {dtype!r}")
    converted = features.float().to(_DTYPES[dtype]).cpu()
    if dtype == "fp16" and not torch.isfinite(converted).all():
        raise RMTError("--dtype fp16: features above 65,504 do not fit; use fp32")
    return converted
