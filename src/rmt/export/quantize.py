"""Post-training quantisation to int8 by NNCF: weights and activations, their ranges from calibration images."""

import logging
from collections.abc import Sequence
from typing import Any

import nncf
from torch import Tensor

from rmt.export.graph import INPUT


def quantize(model: Any, images: Sequence[Tensor], *, by_name: bool) -> Any:
    """An OpenVINO or ONNX model in int8.

    Args:
        model: in float32, with fixed sizes.
        images: prepared images (3, H, W).
        by_name: whether the model's inputs are fed by name, as those of ONNX.
    """
    logging.getLogger("nncf").setLevel(logging.ERROR)

    def feed(image: Tensor) -> Any:
        pixels = image[None].numpy()
        return {INPUT: pixels} if by_name else pixels

    data = nncf.Dataset(list(images), feed)
    # The preset for transformers leaves softmax and normalisations in float32.
    return nncf.quantize(model, data, subset_size=len(images), model_type=nncf.ModelType.TRANSFORMER)
