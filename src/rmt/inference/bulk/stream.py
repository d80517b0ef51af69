"""Batches of many images through a network, while other processes read the next ones."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from rmt.data.images import BadImage
from rmt.data.loader import BatchLoader
from rmt.data.sources.collection import Collection
from rmt.errors import RMTError
from rmt.inference.predictor import Predictor

FEW = 64
"""Up to so many images, and for two batches, no processes are started to read them."""


class Batch(NamedTuple):
    """What came of one batch of images."""

    indices: list[int]  # the images that could be read
    outputs: Any  # one entry for each of them
    bad: list[tuple[int, BadImage]]  # the others


@dataclass(frozen=True)
class Selection:
    """The images of a collection at `indices`, int64 (N,)."""

    collection: Collection
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def load(self, index: int) -> Image.Image:
        return self.collection.load(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.collection.name(int(self.indices[index]))

    def prefetch(self, indices: np.ndarray) -> None:
        self.collection.prefetch(self.indices[indices])


def stream(
    predictor: Predictor,
    images: Selection,
    compute: Callable[[Any], Any],
    *,
    batch_size: int | None = None,
    workers: int = 2,
) -> Iterator[Batch]:
    """Yields what `compute` returns for each batch, in the order of the images.

    Args:
        predictor: its `transform` and `collate` make the batches, in the workers.
        images: what to read.
        compute: a batch, as `predictor.collate` returns it, to a sequence of one output for each image.
        batch_size: images per batch; by default the predictor's own. Where that is 1 it stays 1.
        workers: processes that read images; 0: this one.
    """
    size = predictor.batch_size if batch_size is None or predictor.batch_size == 1 else batch_size
    loader = BatchLoader(
        images,
        partial(_transform, predictor.transform()),
        partial(_collate, type(predictor).collate),
        shuffle=False,
        batch_size=size,
        workers=0 if len(images) <= max(FEW, 2 * size) else min(workers, -(-len(images) // size)),
        prefetch=images.prefetch,
    )
    start = 0
    try:
        for batch in loader:
            good = batch["index"].tolist()
            missing = sorted({*range(start, min(start + size, len(images)))} - {*good})
            start += size
            outputs = compute(batch["samples"]) if good else []
            bad = [(place, BadImage(*why)) for place, why in zip(missing, batch["bad"], strict=True)]
            yield Batch(
                images.indices[good].tolist(), outputs, [(int(images.indices[place]), error) for place, error in bad]
            )
    finally:
        loader.close()


def _transform(transform: Callable[[Image.Image], Any], image: Image.Image, index: int) -> Any:
    return transform(image)


def _collate(collate: Callable[[list[Any]], Any], samples: list[Any], indices: list[int]) -> dict[str, Any]:
    return {"samples": collate(samples) if samples else None}


def check_counts(batch_size: int | None, workers: int, replicas: int = 0, top_k: int | None = None) -> None:
    """Raises RMTError for options that are below what they can be."""
    if batch_size is not None and batch_size < 1:
        raise RMTError(f"--batch-size must be at least 1, not {batch_size}")
    if top_k is not None and top_k < 1:
        raise RMTError(f"--top-k must be at least 1, not {top_k}")
    if workers < 0:
        raise RMTError(f"--workers must be at least 0, not {workers}")
    if replicas < 0:
        raise RMTError(f"--replicas must be at least 0, not {replicas}")
