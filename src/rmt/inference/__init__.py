"""Trained networks applied to images. `load` returns the predictor for a model file's task."""

import importlib
from pathlib import Path
from typing import Any

from rmt.data.images import BadImage
from rmt.errors import RMTError
from rmt.inference.inputs import ImageLike
from rmt.inference.predictor import Predictor
from rmt.inference.results import ImageResult
from rmt.model import read_metadata

__all__ = ["PREDICTORS", "BadImage", "ImageLike", "ImageResult", "Predictor", "load", "predictor_class"]

#: Task of a model file -> module and class of its predictor; imported when needed, since detection has an extra.
PREDICTORS = {
    "classify": ("rmt.inference.classify", "ClassifyPredictor"),
    "detect": ("rmt.inference.detect", "DetectPredictor"),
    "segment": ("rmt.inference.segment", "SegmentPredictor"),
}


def predictor_class(task: str) -> type[Predictor]:
    """Returns the class of predictor for a task, as model files name it. Raises RMTError when there is none."""
    if task not in PREDICTORS:
        raise RMTError(f"no such task: {task!r}; there are {', '.join(PREDICTORS)}")
    module, name = PREDICTORS[task]
    return getattr(importlib.import_module(module), name)


def load(path: str | Path, **options: Any) -> Predictor:
    """Reads the trained network in a `.safetensors` file, an exported file, a run folder (its best), or the package.

    Args:
        path: the file or folder, or the name of a network with weights in the package (`rmt_micro`).
        options: `device` ("auto", "cpu", "cuda", "mps"), `precision` ("auto", "fp32", "bf16", "fp16"), and those of the
            task: `image_size` of a classifier (also (height, width)) or detector, `short_side` of a segmenter.
    Raises:
        RMTError: it is not a model file of this package, or the device is missing.
    """
    return predictor_class(read_metadata(path)["task"]).load(path, **options)
