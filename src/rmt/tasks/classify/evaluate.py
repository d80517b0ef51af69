"""Evaluation of classifiers: loss, top-1 and top-5 accuracy, confusion matrix."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from rmt.data.image_loader import ImageLoader
from rmt.data.sets import EvaluationSplit, ImageSet, Subset, evenly_spread, with_classes
from rmt.data.split_names import Split
from rmt.data.splits import open_evaluation_split
from rmt.data.transforms import eval_transform
from rmt.errors import RMTError
from rmt.inference.classify import ClassifyPredictor
from rmt.tasks.classify.class_scores import MOST, class_scores, class_table, macro_f1
from rmt.tasks.classify.knn import NEIGHBOURS, describe_knn, evaluate_knn
from rmt.tasks.classify.metrics import ClassificationMetrics, top5
from rmt.terminal import plural
from rmt.training.evaluation_facts import evaluation_facts, run_hold_out, unreadable_lines
from rmt.training.evaluator import Evaluator, evaluate


@dataclass(frozen=True)
class Predictions:
    """What one network predicted for N images; all arrays (N,)."""

    index: np.ndarray  # int64, number of the image in its set
    label: np.ndarray  # int64, the true class
    predicted: np.ndarray  # int64
    probability: np.ndarray  # float32, of the predicted class


class ClassifyEvaluator(Evaluator):
    """Loss and accuracy; with `details` also the confusion matrix and the prediction for each image."""

    def __init__(self, num_classes: int, num_images: int, *, details: bool = False) -> None:
        super().__init__(num_images)
        self.metrics: ClassificationMetrics = ClassificationMetrics(num_classes)
        self.confusion: MulticlassConfusionMatrix | None = (
            MulticlassConfusionMatrix(num_classes, validate_args=False) if details else None
        )
        self._predictions: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def update_metrics(self, network: Callable[..., Any], batch: dict[str, Any]) -> None:
        labels, logits = batch["label"], network(batch["image"])
        self.metrics.update(logits, labels)
        if self.confusion is not None:
            predicted = top5(logits)[:, 0]
            self.confusion.update(predicted, labels)
            probability = logits.float().softmax(1).amax(1)
            self._predictions.append((batch["index"], labels, predicted, probability))

    def compute(self) -> dict[str, float]:
        """loss, top1, top5 and macro_recall (percent), images."""
        self.require_images()
        return self.metrics.compute()

    def confusion_matrix(self) -> np.ndarray:
        """int64 (K, K) counts, a row per true class; of an evaluator with `details`."""
        assert self.confusion is not None
        return self.confusion.compute().cpu().numpy()

    def predictions(self) -> Predictions:
        return Predictions(*(torch.cat(parts).cpu().numpy() for parts in zip(*self._predictions, strict=True)))

    def reset(self) -> None:
        super().reset()
        self._predictions.clear()


def open_evaluation(metadata: dict[str, Any], data: str, split: Split | None = None) -> EvaluationSplit[ImageSet]:
    """Opens the images that a model file with this metadata is evaluated on; see `open_evaluation_split`."""
    return open_evaluation_split(data, run_hold_out(metadata, data=data), split)


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str,
    *,
    split: Split | None = None,
    max_images: int | None = None,
    batch_size: int = 64,
    image_size: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
    predictor: ClassifyPredictor | None = None,
    knn: bool = False,
    neighbours: int | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint on `split` of `data`; by default its validation split, what its run held out, or all.

    Of more than `max_images` images, so many are evaluated, evenly spread. The data's classes are matched with the
    checkpoint's by name. `predictor` is that of the checkpoint if it is loaded, and is used as it is.

    Returns loss, top1, top5, macro_recall and macro_f1 (percent), images, per_class (see `class_scores`), classes,
    confusion (K lists of K counts, a row per true class), unreadable (name -> reason) and judged (see
    `evaluation_facts`). With `knn` it is the k-NN accuracy of the embeddings instead, see `evaluate_knn`. Raises
    RMTError.
    """
    if batch_size < 1:
        raise RMTError(f"--batch-size must be at least 1, not {batch_size}")
    if neighbours is not None and not knn:
        raise RMTError("--neighbours is for k-NN accuracy: add --knn")
    if predictor is None:
        predictor = ClassifyPredictor.load(checkpoint, device=device, precision=precision, image_size=image_size)
    if knn:
        chosen = {"split": split, "max_images": max_images, "batch_size": batch_size, "workers": workers}
        count = NEIGHBOURS if neighbours is None else neighbours
        return evaluate_knn(predictor, checkpoint, data, neighbours=count, **chosen)  # type: ignore[arg-type]
    images, part = open_evaluation(predictor.metadata, data, split)
    if predictor.metadata["classes"]:
        images = with_classes(images, predictor.classes)
    elif len(images.classes) != predictor.num_classes:
        raise RMTError(
            f"{checkpoint} has {predictor.num_classes} classes without names, the data have {len(images.classes)}"
        )
    if max_images is not None:
        images = Subset(images, evenly_spread(len(images), max_images))
    evaluator = ClassifyEvaluator(predictor.num_classes, len(images), details=True)
    loader = ImageLoader(
        images, eval_transform(**predictor.preprocessing), batch_size=batch_size, shuffle=False, workers=workers
    )
    evaluate({"model": evaluator}, {"model": predictor.runtime}, loader, predictor.device)
    confusion = evaluator.confusion_matrix()
    return {
        **evaluator.compute(),
        "macro_f1": macro_f1(confusion),
        "per_class": class_scores(confusion, tuple(images.classes)),
        "classes": list(images.classes),
        "confusion": confusion.tolist(),
        "unreadable": evaluator.unreadable,
        "judged": evaluation_facts(checkpoint, predictor.metadata, data, part),
    }


def describe(result: dict[str, Any], *, per_class: bool = False) -> list[str]:
    """The metrics in one line, those of each class (of many with `per_class`), and the images that cannot be read."""
    if "knn_top1" in result:
        return describe_knn(result)
    metrics = (
        f"top-1 {result['top1']:.2f} %   top-5 {result['top5']:.2f} %   macro recall {result['macro_recall']:.2f} %   "
        f"macro F1 {result['macro_f1']:.2f} %   loss {result['loss']:.4f}"
    )
    shown = per_class or len(result["per_class"]) <= MOST
    classes = class_table(result["per_class"]) if shown else []
    return [f"{metrics}   ({plural(result['images'], 'image')})", *classes, *unreadable_lines(result["unreadable"])]
