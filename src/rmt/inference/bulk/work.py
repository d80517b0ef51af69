"""What is computed of images: predictions or embeddings, described so that any process can do it."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from rmt.data.files import valid_name
from rmt.data.images import BadImage
from rmt.data.sources.collection import Collection
from rmt.inference import Predictor, predictor_class
from rmt.inference.bulk.rows import EmbeddingRows, Masks, Rows, rows_for
from rmt.inference.bulk.stream import Selection, stream
from rmt.inference.embeddings import DType, convert
from rmt.model import read_metadata
from rmt.model.checkpoints import resolve_checkpoint


class Done(NamedTuple):
    """What came of some images."""

    indices: list[int]  # of those that could be read
    table: pa.Table  # a row for each
    bad: list[BadImage]  # the others


@dataclass(frozen=True, kw_only=True)
class Work(ABC):
    """The network, and what it computes; can be pickled.

    Attributes:
        checkpoint: as `rmt.load` takes it.
        load_options: keywords of `Predictor.load`.
        batch_size, workers: see `stream`.
    """

    checkpoint: Path
    load_options: dict[str, Any] = field(default_factory=dict)
    batch_size: int | None = None
    workers: int = 2

    def start(self) -> "Worker":
        """Loads the network."""
        predictor = predictor_class(read_metadata(self.checkpoint)["task"]).load(self.checkpoint, **self.load_options)
        return Worker(self, predictor, self.rows(predictor))

    @abstractmethod
    def rows(self, predictor: Predictor) -> Rows:
        """The columns of the answers."""

    @abstractmethod
    def compute(self, predictor: Predictor, batch: Any) -> Any:
        """One output, as `Rows.table` takes it, for each image of a batch."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What changes the answers, besides the network."""

    def model(self, predictor: Predictor) -> str:
        """The name of the network, and a fingerprint of weights, preprocessing, precision and settings."""
        digest = hashlib.sha256()
        path = resolve_checkpoint(self.checkpoint)
        for file in (path, path.with_suffix(".bin")) if path.suffix == ".xml" else (path,):
            with open(file, "rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
        facts = {"preprocessing": predictor.preprocessing, "precision": predictor.precision, **self.settings()}
        digest.update(json.dumps(facts, sort_keys=True, default=str).encode())
        return f"{predictor.metadata['model'] or path.stem}@{digest.hexdigest()[:12]}"


@dataclass(frozen=True, kw_only=True)
class Prediction(Work):
    """Predictions with the options of the predictor's `run`."""

    run_options: dict[str, Any] = field(default_factory=dict)
    masks: Masks = "rle"
    threshold: float | None = None

    def rows(self, predictor: Predictor) -> Rows:
        return rows_for(
            predictor, top_k=self.run_options.get("top_k", 5), masks=self.masks, threshold=self.threshold or 0.0
        )

    def compute(self, predictor: Predictor, batch: Any) -> Any:
        return predictor.run(batch, **self.run_options)

    def settings(self) -> dict[str, Any]:
        without = {key: value for key, value in self.run_options.items() if key != "batch_size"}
        return {"run": without, "masks": self.masks, "threshold": self.threshold}


@dataclass(frozen=True, kw_only=True)
class Embedding(Work):
    """Embeddings of a stage, see `Predictor.embed`."""

    stage: int | None = None
    dtype: DType = "fp32"

    def rows(self, predictor: Predictor) -> Rows:
        from PIL import Image

        size = predictor.embed(Image.new("RGB", (64, 64)), stage=self.stage, dtype=self.dtype).shape[1]
        return EmbeddingRows(size, self.dtype)

    def compute(self, predictor: Predictor, batch: Any) -> Any:
        return convert(predictor.embed_batch(batch, stage=self.stage), self.dtype).numpy()

    def settings(self) -> dict[str, Any]:
        return {"stage": self.stage, "dtype": self.dtype}


class Worker:
    """A network that is loaded, and its work."""

    work: Work
    predictor: Predictor
    rows: Rows

    def __init__(self, work: Work, predictor: Predictor, rows: Rows) -> None:
        self.work, self.predictor, self.rows = work, predictor, rows
        self.model: str = work.model(predictor)

    def run(self, collection: Collection, indices: np.ndarray) -> Iterator[Done]:
        """Yields the answers for some images, batch by batch, in order."""
        images = Selection(collection, indices)

        def compute(batch: Any) -> Any:
            return self.work.compute(self.predictor, batch)

        for batch in stream(
            self.predictor, images, compute, batch_size=self.work.batch_size, workers=self.work.workers
        ):
            names = [valid_name(collection.name(index)) for index in batch.indices]
            table = self.rows.table(names, self.model, batch.outputs)
            yield Done(batch.indices, table, [error for _, error in batch.bad])
