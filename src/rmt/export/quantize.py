"""Post-training quantisation to int8 by NNCF: weights and activations, their ranges from calibration images."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from rmt.export.graph import INPUT


def quantize(
    model: Any, images: Sequence[Image.Image], prepare: Callable[[Image.Image], Tensor], *, by_name: bool
) -> Any:
    """An OpenVINO or ONNX model in int8.

    Args:
        model: in float32, with fixed sizes.
        images: for the ranges of the values. Each is read and prepared when NNCF asks for it, twice in all: as
            tensors, those for a detector take gigabytes.
        prepare: an image to the graph's input (3, H, W).
        by_name: whether the model's inputs are fed by name, as those of ONNX.
    """
    import nncf  # of the extra `export`, and slow to import

    logging.getLogger("nncf").setLevel(logging.ERROR)

    def feed(image: Image.Image) -> Any:
        pixels = prepare(image)[None].numpy()
        return {INPUT: pixels} if by_name else pixels

    data = nncf.Dataset(images, feed)
    # The preset for transformers leaves softmax and normalisations in float32.
    return nncf.quantize(model, data, subset_size=len(images), model_type=nncf.ModelType.TRANSFORMER)
