"""Evaluation of segmenters: exact counts of pixels, and the metrics from them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torchmetrics.classification import MulticlassConfusionMatrix

from rmt.data.segmentation.dataset import SegmentationSet, open_segmentation_evaluation
from rmt.data.segmentation.masks import IGNORE
from rmt.data.sets import EvaluationSplit, evenly_spread
from rmt.data.split_names import Split
from rmt.heads.segmentation.sliding import InferenceOptions, segment
from rmt.inference.segment import Mode, SegmentPredictor, inference_from
from rmt.tasks.segment.data import whole_loader
from rmt.tasks.segment.metrics import constant_prediction, foreground_miou, mean_metrics, per_class_table
from rmt.terminal import plural
from rmt.training.evaluation_facts import evaluation_facts, run_hold_out, unreadable_lines
from rmt.training.evaluator import Evaluator, evaluate
from rmt.training.results import text_table

BACKGROUND = "background"


class SegmentEvaluator(Evaluator):
    """The confusion matrix of all pixels that are not ignored, at the size of the masks.

    Args:
        num_classes: number of classes K.
        num_images: images in the set.
        preprocessing: `mean` and `std` of the network's images.
        inference: whole or sliding, flip, scales.
    """

    mean: Sequence[float]
    std: Sequence[float]
    inference: InferenceOptions

    def __init__(
        self, num_classes: int, num_images: int, *, preprocessing: dict[str, Any], inference: InferenceOptions
    ) -> None:
        super().__init__(num_images)
        self.mean, self.std, self.inference = preprocessing["mean"], preprocessing["std"], inference
        self.confusion: MulticlassConfusionMatrix = MulticlassConfusionMatrix(
            num_classes, ignore_index=IGNORE, validate_args=False
        )

    def update_metrics(self, network: Callable[..., Any], batch: dict[str, Any]) -> None:
        for image, mask in zip(batch["image"], batch["mask"], strict=True):
            size = (mask.shape[0], mask.shape[1])
            labels = segment(network, image, size, mean=self.mean, std=self.std, inference=self.inference)
            self.confusion.update(labels.to(mask.device), mask)

    def counts(self) -> np.ndarray:
        """int64 (K, K) pixels, a row per true class. Raises RMTError when no image could be read."""
        self.require_images()
        return self.confusion.compute().cpu().numpy()

    def compute(self) -> dict[str, float]:
        """See `mean_metrics`."""
        return mean_metrics(self.counts())


def open_evaluation(
    metadata: dict[str, Any], data: str, split: Split | None = None, classes: str = ""
) -> EvaluationSplit[SegmentationSet]:
    """Opens the pairs that a model file with this metadata is evaluated on; see `open_segmentation_evaluation`."""
    return open_segmentation_evaluation(
        data,
        classes,
        zero_is_ignored=metadata["preprocessing"].get("zero_is_ignored", False),
        held=run_hold_out(metadata, data=data),
        split=split,
    )


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str,
    *,
    split: Split | None = None,
    max_images: int | None = None,
    classes: str = "",
    batch_size: int = 4,
    inference: Mode | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    short_side: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
    predictor: SegmentPredictor | None = None,
) -> dict[str, Any]:
    """Evaluates a segmenter on `split` of `data`; by default its validation split, what its run held out, or all.

    Of more than `max_images` images, so many are evaluated, evenly spread. The data's classes are matched with the
    checkpoint's by name. `batch_size` counts windows. `predictor` is that of the checkpoint if it is loaded, and is
    used as it is.

    Returns the values of `segmentation_results`, images, skipped_files, unreadable (name -> reason) and judged (see
    `evaluation_facts`). Raises RMTError.
    """
    if predictor is None:
        predictor = SegmentPredictor.load(checkpoint, device=device, precision=precision, short_side=short_side)
    preprocessing = predictor.preprocessing
    images, part = open_evaluation(predictor.metadata, data, split, classes)
    images = images.with_classes(predictor.classes)
    if max_images is not None:
        images = images.subset(evenly_spread(len(images), max_images))
    evaluator = SegmentEvaluator(
        predictor.num_classes,
        len(images),
        preprocessing=preprocessing,
        inference=inference_from(predictor.metadata, batch_size, inference, flip, scales),
    )
    loader = whole_loader(images, preprocessing["long_side"], preprocessing["short_side"], workers=workers)
    evaluate({"model": evaluator}, {"model": predictor.runtime}, loader, predictor.device)
    return {
        **segmentation_results(evaluator.counts(), predictor.classes),
        "images": len(images) - len(evaluator.unreadable),
        "skipped_files": images.skipped,
        "unreadable": evaluator.unreadable,
        "judged": evaluation_facts(checkpoint, predictor.metadata, data, part),
    }


def segmentation_results(counts: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """The metrics from the counts, as JSON values.

    Returns miou, macc, aacc (percent), pixels, most_frequent (what predicting the most frequent class everywhere
    scores), per_class (see `per_class_table`), confusion (a row per true class), and where there is a class
    `background` foreground_miou, the mean IoU of the others.
    """
    frequent = int(counts.sum(1).argmax())
    constant = mean_metrics(constant_prediction(counts, frequent))
    found: dict[str, Any] = {**mean_metrics(counts), "most_frequent": {"class": names[frequent], **constant}}
    if BACKGROUND in names and len(names) > 1:
        background = names.index(BACKGROUND)
        pixels = counts.sum(1)
        pixels[background] = -1
        label = int(pixels.argmax())
        found["foreground_miou"] = foreground_miou(counts, background)
        found["most_frequent"]["foreground_class"] = names[label]
        found["most_frequent"]["foreground_miou"] = foreground_miou(constant_prediction(counts, label), background)
    return {**found, "per_class": per_class_table(counts, names), "confusion": counts.tolist()}


def describe(result: dict[str, Any]) -> list[str]:
    """The means in one line, those of a constant prediction below, and a line per class."""
    constant = result["most_frequent"]
    lines = [
        f"mIoU {result['miou']:.2f} %   mean accuracy {result['macc']:.2f} %   pixel accuracy {result['aacc']:.2f} %"
        f"   ({plural(result['images'], 'image')}, {result['pixels']:,} pixels)",
        f"always {constant['class']}: mIoU {constant['miou']:.2f} %, pixel accuracy {constant['aacc']:.2f} %",
    ]
    if "foreground_miou" in result:
        lines.append(
            f"foreground mIoU {result['foreground_miou']:.2f} %"
            f"   (always {constant['foreground_class']}: {constant['foreground_miou']:.2f} %)"
        )
    rows = [("class", "IoU", "accuracy", "pixels")]
    for row in result["per_class"]:
        iou, accuracy = (f"{row[key]:.2f} %" if row[key] is not None else "–" for key in ("iou", "accuracy"))
        rows.append((row["class"], iou, accuracy, f"{row['pixels']:,}"))
    lines += text_table(rows)
    lines += [f"skipped: {count} × {reason}" for reason, count in result["skipped_files"].items()]
    return lines + unreadable_lines(result["unreadable"])
