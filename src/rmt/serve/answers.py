"""What is sent for an image: the predictions of each task as JSON values, and their schemas for OpenAPI."""

import base64
import io
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, Field

from rmt.inference import Predictor
from rmt.inference.drawing.masks import UNCOLOURED, class_shares
from rmt.inference.drawing.palette import line_colour, palette
from rmt.inference.explain import Explanation
from rmt.inference.runtime import TorchRuntime
from rmt.model import RMT


class ErrorText(BaseModel):
    code: str = Field(description="what kind of refusal, for programs")
    message: str = Field(description="one line")


class Error(BaseModel):
    """A refusal; among several images also the answer of one that cannot be used."""

    error: ErrorText


class Ranked(BaseModel):
    label: str = Field(description="of the class")
    probability: float = Field(description="0 to 1")
    index: int = Field(description="of the class")


class Classification(BaseModel):
    predictions: list[Ranked] = Field(description="likeliest first")


class Runs(BaseModel):
    """A mask as compressed run lengths of COCO."""

    size: list[int] = Field(description="height, width")
    counts: str = Field(description="the run lengths")


class Object(BaseModel):
    label: str = Field(description="of the class")
    index: int = Field(description="of the class, from 0")
    score: float = Field(description="0 to 1")
    box: list[float] = Field(description="left, top, width, height in pixels of the image")
    mask: Runs | None = Field(default=None, description="of a network with a mask head")


class Detection(BaseModel):
    width: int = Field(description="of the image in pixels")
    height: int = Field(description="of the image in pixels")
    objects: list[Object] = Field(description="highest score first")


class Share(BaseModel):
    label: str = Field(description="of the class")
    index: int = Field(description="of the class")
    share: float = Field(description="of the pixels, 0 to 1")


class Segmentation(BaseModel):
    width: int = Field(description="of the image in pixels")
    height: int = Field(description="of the image in pixels")
    shares: list[Share] = Field(description="largest first")
    classes_png: str = Field(description="base64 of a palette PNG whose values are the class indices")


class Head(BaseModel):
    mean_distance: float = Field(description="of the tokens attended to, weighted by the attention; in pixels")
    half_distance: float | None = Field(description="where the decay built into the head is 1/2; in pixels")
    attention: str = Field(description="base64 of a byte per token, row by row: 255 for the largest weight")


class StageView(BaseModel):
    """The last block of a stage. Distances are Manhattan distances in pixels of the photograph."""

    stage: int = Field(description="counted from 1")
    form: str = Field(description="rows, then columns, or all pairs")
    grid: list[int] = Field(description="rows and columns of tokens")
    token: float = Field(description="side of a token in pixels")
    query: list[int] = Field(description="row and column of the token at the point")
    heads: list[Head] = Field(description="in the order of the network")


class Explained(BaseModel):
    """What each head attends to from a point. Pixels are those of the photograph."""

    width: int = Field(description="of the image in pixels")
    height: int = Field(description="of the image in pixels")
    decision: str = Field(description="what the network answers, in words")
    at: list[float] = Field(description="the point: x, y in pixels")
    view: list[float] = Field(description="what the network sees: left, top, right, bottom; can reach beyond the image")
    stages: list[StageView] = Field(description="from the finest to the coarsest")


class Embedding(BaseModel):
    embedding: list[float] = Field(description="the pooled features")


ANSWERS: dict[str, type[BaseModel]] = {"classify": Classification, "detect": Detection, "segment": Segmentation}
"""Task -> the answer to one image."""


class Model(BaseModel):
    """The network that is served."""

    task: Literal["classify", "detect", "segment"] = Field(description="what it answers")
    model: str = Field(description="name of the network")
    version: int = Field(description="one more each time that a new file is loaded")
    classes: list[str] = Field(description="in the order of their indices")
    colours: list[list[int]] = Field(description="red, green, blue of each class, 0 to 255")
    transparent: list[int] = Field(description="segmentation: classes that are drawn as the photograph itself")
    image_size: list[int] = Field(description="height, width that images are resized to, in pixels")
    explains: bool = Field(description="whether /explain answers")
    threshold: float | None = Field(description="detection: the suggested lowest score")
    limits: dict[str, float] = Field(description="of a request: bytes, images, pixels, seconds")


TopK = Annotated[int, Field(ge=1, le=1000, description="classes in the answer, likeliest first")]
X = Annotated[float, Field(ge=0, le=1, description="point of the image, as a fraction of its width from the left")]
Y = Annotated[float, Field(ge=0, le=1, description="point of the image, as a fraction of its height from the top")]
Stage = Annotated[int, Field(ge=1, le=64, description="counted from 1; by default what a classifier's last layer sees")]
Threshold = Annotated[float, Field(ge=0, le=1, description="lowest score of the objects in the answer")]


def answer(predictor: Predictor, size: tuple[int, int], found: Any, threshold: float) -> dict[str, Any]:
    """The JSON values for what the predictor found in a photograph of (width, height)."""
    if predictor.task == "classify":
        return {"predictions": [dict(vars(entry)) for entry in found]}
    values = _objects(predictor, found, threshold) if predictor.task == "detect" else _class_map(predictor, found)
    return {"width": size[0], "height": size[1], **values}


def _objects(predictor: Predictor, found: Any, threshold: float) -> dict[str, Any]:
    objects = []
    for number, (left, top, right, bottom) in enumerate(found.boxes.tolist()):
        if (score := float(found.scores[number])) < threshold:
            continue
        index = int(found.labels[number])
        entry = {"label": predictor.classes[index], "index": index, "score": score}
        entry["box"] = [left, top, right - left, bottom - top]
        entry["mask"] = None if found.masks is None else found.masks[number]
        objects.append(entry)
    return {"objects": objects}


def _class_map(predictor: Predictor, found: Any) -> dict[str, Any]:
    labels = found.numpy()
    index = {name: number for number, name in reversed(list(enumerate(predictor.classes)))}
    shares = [
        {"label": name, "index": index[name], "share": share}
        for name, share in class_shares(labels, predictor.classes).items()
    ]
    picture = Image.fromarray(labels, "P")
    picture.putpalette(palette(len(predictor.classes)).tobytes())
    picture.save(file := io.BytesIO(), "PNG", compress_level=1)
    png = base64.b64encode(file.getvalue()).decode()
    return {"shares": shares, "classes_png": png}


def explains(predictor: Predictor) -> bool:
    """Whether the predictor's attention can be read: an RMT network in PyTorch, not an exported graph."""
    runtime = predictor.runtime
    return isinstance(runtime, TorchRuntime) and any(isinstance(part, RMT) for part in runtime.model.modules())


def explanation(found: Explanation) -> dict[str, Any]:
    """The JSON values of `Explained`, without the size of the image."""
    values, stages = found.values(), []
    for view, facts in zip(found.stages, values["stages"], strict=True):
        weights = np.abs(view.attention)
        shares = weights / weights.max((1, 2), keepdims=True).clip(1e-12)
        half = facts["half_distance"] or [None] * len(weights)
        heads = [
            {
                "mean_distance": mean,
                "half_distance": distance,
                "attention": base64.b64encode(np.rint(255 * share).astype(np.uint8).tobytes()).decode(),
            }
            for mean, distance, share in zip(facts["mean_distance"], half, shares, strict=True)
        ]
        shape = {key: facts[key] for key in ("stage", "form", "grid", "token")}
        stages.append({**shape, "query": list(view.query), "heads": heads})
    return {**{key: values[key] for key in ("decision", "at", "view")}, "stages": stages}


def describe(predictor: Predictor, version: int, limits: dict[str, float]) -> dict[str, Any]:
    """The JSON values of `Model`."""
    count = len(predictor.classes)
    segments = predictor.task == "segment"
    colours = palette(count).tolist() if segments else [list(line_colour(k)) for k in range(count)]
    return {
        "task": predictor.task,
        "model": str(predictor.metadata["model"]),
        "version": version,
        "classes": list(predictor.classes),
        "colours": colours,
        "transparent": [k for k, name in enumerate(predictor.classes) if segments and name in UNCOLOURED],
        "image_size": [int(side) for side in predictor.preprocessing["size"]],
        "explains": explains(predictor),
        "threshold": getattr(predictor, "threshold", None),
        "limits": limits,
    }
