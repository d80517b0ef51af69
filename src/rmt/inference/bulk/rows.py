"""Rows of an answers file: what each task predicts, as columns of parquet, objects of JSON, or rows of CSV."""

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from PIL import Image
from torch import Tensor

from rmt.data.detection.rle import decode, encode
from rmt.inference.classify import ClassifyPredictor, Prediction
from rmt.inference.detect import Detections, DetectPredictor, check_threshold
from rmt.inference.drawing.masks import class_shares
from rmt.inference.drawing.palette import palette
from rmt.inference.predictor import Predictor
from rmt.inference.segment import SegmentPredictor

Masks = Literal["rle", "png", "none"]

_FIRST = [("image", pa.string()), ("model", pa.string())]
_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])


class Rows(ABC):
    """Makes the rows of some images.

    Attributes:
        fields: (name, type) of the columns after `image` and `model`.
        csv_columns: those of CSV; a row of an image may be several of CSV.
    """

    fields: list[tuple[str, pa.DataType]]
    csv_columns: list[str]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*_FIRST, *self.fields])

    @abstractmethod
    def values(self, output: Any) -> dict[str, Any]:
        """The columns of one image."""

    @abstractmethod
    def csv(self, row: dict[str, Any]) -> list[list[Any]]:
        """The values of `csv_columns` for an image, without its name and model."""

    def table(self, names: Sequence[str], model: str, outputs: Sequence[Any]) -> pa.Table:
        """The rows of some images."""
        rows = [
            {"image": name, "model": model, **self.values(output)} for name, output in zip(names, outputs, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=self.schema)


class ClassRows(Rows):
    """The likeliest classes."""

    def __init__(self, most: int) -> None:
        self.fields: list[tuple[str, pa.DataType]] = [
            (
                "predictions",
                pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float32()), ("index", pa.int32())])),
            )
        ]

        places = ["", *(f"_{place}" for place in range(2, most + 1))]
        self.csv_columns: list[str] = [name for place in places for name in (f"label{place}", f"probability{place}")]

    def values(self, output: list[Prediction]) -> dict[str, Any]:
        return {"predictions": [vars(prediction) for prediction in output]}

    def csv(self, row: dict[str, Any]) -> list[list[Any]]:
        found = row["predictions"]
        return [[value for p in found for value in (p["label"], round(p["probability"], 6))]]


class ObjectRows(Rows):
    """The objects of an image: `bbox` is left, top, width and height in pixels."""

    classes: Sequence[str]
    category_ids: Sequence[int | None]
    threshold: float

    def __init__(
        self, classes: Sequence[str], category_ids: Sequence[int | None], masks: Masks, threshold: float
    ) -> None:
        self.classes, self.category_ids, self.masks, self.threshold = classes, category_ids, masks, threshold
        entry = [("label", pa.string()), ("category_id", pa.int32()), ("score", pa.float32())]
        entry.append(("bbox", pa.list_(pa.float32())))
        self.csv_columns: list[str] = ["width", "height", "label", "category_id", "score"]
        self.csv_columns += ["left", "top", "box_width", "box_height"]
        if masks == "rle":
            entry.append(("segmentation", _RLE))
            self.csv_columns.append("segmentation")
        elif masks == "png":
            entry.append(("mask", pa.binary()))
        self.fields: list[tuple[str, pa.DataType]] = [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("objects", pa.list_(pa.struct(entry))),
        ]

    def values(self, output: Detections) -> dict[str, Any]:
        height, width = output.size
        objects = []
        for i, (left, top, right, bottom) in enumerate(output.boxes.tolist()):
            if output.scores[i] < self.threshold:
                continue
            number = int(output.labels[i])
            entry: dict[str, Any] = {"label": self.classes[number], "category_id": self.category_ids[number]}
            entry |= {"score": float(output.scores[i]), "bbox": [left, top, right - left, bottom - top]}
            if output.masks is not None and self.masks == "rle":
                entry["segmentation"] = output.masks[i]
            elif output.masks is not None and self.masks == "png":
                mask = decode(output.masks[i], height, width)
                entry["mask"] = _png(Image.fromarray(np.asarray(mask, np.uint8) * np.uint8(255)).convert("1"))
            objects.append(entry)
        return {"width": width, "height": height, "objects": objects}

    def csv(self, row: dict[str, Any]) -> list[list[Any]]:
        size = [row["width"], row["height"]]
        empty = [None] * (len(self.csv_columns) - 2)
        return [
            [*size, o["label"], o["category_id"], round(o["score"], 6), *(round(v, 2) for v in o["bbox"])]
            + ([o["segmentation"]["counts"] if o["segmentation"] else None] if self.masks == "rle" else [])
            for o in row["objects"]
        ] or [[*size, *empty]]


class AreaRows(Rows):
    """The classes of an image's pixels: their shares, and their masks, or one picture of class indices."""

    classes: tuple[str, ...]

    def __init__(self, classes: tuple[str, ...], masks: Masks) -> None:
        self.classes, self.masks = classes, masks
        entry = [("label", pa.string()), ("index", pa.int32()), ("share", pa.float32())]
        self.csv_columns: list[str] = ["width", "height", "label", "index", "share"]
        if masks == "rle":
            entry.append(("segmentation", _RLE))
            self.csv_columns.append("segmentation")
        self.fields: list[tuple[str, pa.DataType]] = [
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("areas", pa.list_(pa.struct(entry))),
        ]
        if masks == "png":
            self.fields.append(("mask", pa.binary()))

    def values(self, output: Tensor) -> dict[str, Any]:
        labels = output.numpy()
        areas = []
        for name, share in class_shares(labels, self.classes).items():
            index = self.classes.index(name)
            entry: dict[str, Any] = {"label": name, "index": index, "share": share}
            if self.masks == "rle":
                (entry["segmentation"],) = encode((labels == index)[None])
            areas.append(entry)
        row: dict[str, Any] = {"width": labels.shape[1], "height": labels.shape[0], "areas": areas}
        if self.masks == "png":
            picture = Image.fromarray(labels, "P")
            picture.putpalette(palette(len(self.classes)).tobytes())
            row["mask"] = _png(picture)
        return row

    def csv(self, row: dict[str, Any]) -> list[list[Any]]:
        return [
            [row["width"], row["height"], area["label"], area["index"], round(area["share"], 6)]
            + ([area["segmentation"]["counts"]] if self.masks == "rle" else [])
            for area in row["areas"]
        ]


class EmbeddingRows(Rows):
    """The embeddings (N, D) of some images."""

    def __init__(self, size: int, dtype: Literal["fp32", "fp16"]) -> None:
        self.type: pa.DataType = pa.float16() if dtype == "fp16" else pa.float32()
        self.size = size
        self.csv_columns: list[str] = []
        self.fields: list[tuple[str, pa.DataType]] = [("embedding", pa.list_(self.type, size))]

    def table(self, names: Sequence[str], model: str, outputs: Sequence[Any]) -> pa.Table:
        values = np.stack(outputs) if len(outputs) else np.empty((0, self.size), self.type.to_pandas_dtype())
        column = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1), self.type), self.size)
        return pa.table(
            [pa.array(names, pa.string()), pa.array([model] * len(names), pa.string()), column], self.schema
        )

    def values(self, output: Any) -> dict[str, Any]:
        raise NotImplementedError

    def csv(self, row: dict[str, Any]) -> list[list[Any]]:
        raise NotImplementedError


def rows_for(predictor: Predictor, *, top_k: int = 5, masks: Masks = "rle", threshold: float = 0.0) -> Rows:
    """The rows of the predictions of a network. Raises RMTError for a threshold outside [0, 1]."""
    if isinstance(predictor, ClassifyPredictor):
        return ClassRows(min(top_k, predictor.num_classes))
    if isinstance(predictor, DetectPredictor):
        masks = masks if predictor.masks else "none"
        return ObjectRows(predictor.classes, predictor.category_ids, masks, check_threshold(threshold))
    assert isinstance(predictor, SegmentPredictor)
    if masks == "rle":
        encode(np.zeros((1, 1, 1), bool))  # raises RMTError now if its package is missing
    return AreaRows(predictor.classes, masks)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
