"""k-NN accuracy: what the embeddings of a network tell of classes, which it need not know."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from rmt.data.image_loader import ImageLoader
from rmt.data.sets import EvaluationSplit, ImageSet, Subset, evenly_spread, with_classes
from rmt.data.split_names import Split
from rmt.data.splits import open_evaluation_split, open_train
from rmt.errors import RMTError
from rmt.inference.classify import ClassifyPredictor
from rmt.terminal import plural
from rmt.training.evaluation_facts import evaluation_facts, run_hold_out, unreadable_lines

NEIGHBOURS = 20
_TEMPERATURE = 0.07  # of the votes, as in DINO's evaluation
_SIMILARITIES = 2**26  # that are in memory at a time


def evaluate_knn(
    predictor: ClassifyPredictor,
    checkpoint: str | Path,
    data: str,
    *,
    neighbours: int = NEIGHBOURS,
    split: Split | None = None,
    max_images: int | None = None,
    batch_size: int = 64,
    workers: int = 2,
) -> dict[str, Any]:
    """Classifies images by the `neighbours` training images whose embeddings are nearest; see `vote`.

    The images are those of `rmt evaluate`; the training images are all others of the training split. Where there is no
    other split, each image is classified by all others.

    Returns knn_top1 (percent), neighbours, images, train_images, unreadable (name -> reason) and judged (see
    `evaluation_facts`). Raises RMTError.
    """
    if neighbours < 1:
        raise RMTError(f"--neighbours must be at least 1, not {neighbours}")
    found = open_evaluation_split(data, run_hold_out(predictor.metadata, data=data), split)
    images, train = _neighbours_of(found, data)
    same = train is images
    if max_images is not None:
        images = Subset(images, evenly_spread(len(images), max_images))
    unreadable: dict[str, str] = {}
    query, query_index = _embeddings(predictor, images, batch_size, workers, unreadable)
    known, known_index = (
        (query, query_index)
        if same and max_images is None
        else _embeddings(predictor, train, batch_size, workers, unreadable)
    )
    if not len(query) or len(known) < 1 + same:
        raise RMTError(f"{data}: no image of {len(images):,}, or none of the {len(train):,} others, could be read")
    labels = torch.from_numpy(train.labels[known_index]).to(predictor.device)
    own = None
    if same:  # the position of each image among all
        wanted = images.indices[query_index] if isinstance(images, Subset) and max_images is not None else query_index
        own = torch.from_numpy(np.searchsorted(known_index, wanted)).to(predictor.device)
    predicted = vote(query, known, labels, len(train.classes), neighbours, own)
    right = predicted.cpu().numpy() == images.labels[query_index]
    return {
        "knn_top1": 100 * float(right.mean()),
        "neighbours": min(neighbours, len(known) - same),
        "images": len(query),
        "train_images": len(known),
        "unreadable": unreadable,
        "judged": evaluation_facts(checkpoint, predictor.metadata, data, found.part),
    }


def vote(
    query: Tensor, known: Tensor, labels: Tensor, num_classes: int, neighbours: int, own: Tensor | None = None
) -> Tensor:
    """The class of each embedding of `query` (Q, D) by those of `known` (N, D), which are of the classes `labels` (N,).

    The `neighbours` of the largest cosine similarity s vote with the weight exp(s / 0.07). Returns int64 (Q,).

    Args:
        own: the number of each query in `known`, which does not vote for itself; None: it is not there.
    """
    query, known = normalize(query), normalize(known)
    count = min(neighbours, len(known) - (own is not None))
    predicted = []
    step = max(1, _SIMILARITIES // len(known))
    for start in range(0, len(query), step):
        similarity = query[start : start + step] @ known.T
        if own is not None:
            similarity.scatter_(1, own[start : start + step, None], -torch.inf)
        nearest, index = similarity.topk(count)
        votes = torch.zeros(len(nearest), num_classes, device=query.device)
        votes.scatter_add_(1, labels[index], ((nearest - 1) / _TEMPERATURE).exp())
        predicted.append(votes.argmax(1))
    return torch.cat(predicted)


def describe_knn(result: dict[str, Any]) -> list[str]:
    """The accuracy in one line, and the images that cannot be read."""
    line = (
        f"k-NN top-1 {result['knn_top1']:.2f} %   ({plural(result['images'], 'image')}, by the {result['neighbours']} "
        f"nearest of {result['train_images']:,})"
    )
    return [line, *unreadable_lines(result["unreadable"])]


def _neighbours_of(found: EvaluationSplit[ImageSet], data: str) -> tuple[ImageSet, ImageSet]:
    """The images to classify, and those to classify by: the same object where there are no others."""
    images = found.images
    if found.part in ("all", "train"):
        return images, images
    if found.part == "held out" and isinstance(images, Subset):
        rest = np.setdiff1d(np.arange(len(images.parent)), images.indices)
        return images, Subset(images.parent, rest)
    train = open_train(data)
    return with_classes(images, train.classes), train


def _embeddings(
    predictor: ClassifyPredictor, images: ImageSet, batch_size: int, workers: int, unreadable: dict[str, str]
) -> tuple[Tensor, np.ndarray]:
    """The embeddings of the images that can be read, on the device, and their numbers, ascending."""
    loader = ImageLoader(images, predictor.transform(), batch_size=batch_size, shuffle=False, workers=workers)
    parts, index = [torch.empty(0, 0, device=predictor.device)], [np.empty(0, np.int64)]
    try:
        for batch in loader:
            unreadable.update(batch["bad"])
            if len(batch["image"]):
                parts.append(predictor.embed_batch(batch["image"]))
                index.append(batch["index"].numpy())
    finally:
        loader.close()
    return torch.cat(parts[1:] or parts), np.concatenate(index)
