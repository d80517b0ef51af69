"""`report.png` of a segmentation run: curves, IoU of each class, and predictions for validation images."""

from contextlib import suppress
from typing import Any

import numpy as np

from rmt.data.images import BadImage
from rmt.inference.drawing.masks import draw_segmentation
from rmt.inference.drawing.palette import palette
from rmt.inference.runtime import Runtime
from rmt.inference.segment import SegmentPredictor
from rmt.tasks.report_page import ReportPage, bars_height, best_predictor, class_bars, shown_classes
from rmt.tasks.segment.evaluate import SegmentEvaluator
from rmt.tasks.segment.inference import WAYS
from rmt.tasks.segment.module import SegmentModule
from rmt.terminal import plural
from rmt.training.logging import plots
from rmt.training.results import final_rows
from rmt.training.task import FinishedRun

_SAMPLES = 6


def draw_report(
    module: SegmentModule, run: FinishedRun, metrics: dict[str, Any], evaluator: SegmentEvaluator, network: Runtime
) -> None:
    """Draws the page; `network` has the best weights."""
    details = metrics["details"]["best"]
    known = sorted((row for row in details["per_class"] if row["iou"] is not None), key=lambda row: -row["iou"])
    bars = [(row["class"], row["iou"], row["accuracy"]) for row in shown_classes(known)]
    predictor = best_predictor(SegmentPredictor, module, network)
    pairs = _random_pairs(module)
    page = ReportPage(module, run, metrics, predictor, [bars_height(bars), _samples_height(pairs)])
    number = plural(metrics["images"]["val"], "validation image")
    final, curves = _ways(metrics)
    columns, constant = module.metric_columns, details["most_frequent"]
    scores = [(name, f"{columns.of(entry['val']):.2f} %") for name, entry in final_rows(metrics)]
    scores.append(("one class always", f"{columns.of(constant):.2f} %"))
    page.title(scores, f"{columns.label}{final}, {number}")
    label = "Mean IoU" if columns.best == "miou" else columns.label.capitalize()
    page.curves(
        label,
        curves or f"on {number}",
        "training loss includes augmentation",
        baseline=columns.of(constant),
    )
    colours = dict(zip(module.data.classes, palette(len(module.data.classes)) / 255, strict=True))
    class_bars(
        page.rows[0].subplots(),
        "IoU by class, %",
        "best weights; the tick is the accuracy of the class; colours as in the class maps below",
        bars,
        colours=[colours[name] for name, *_ in bars],
    )
    _samples(page.rows[1], module, predictor, pairs)
    page.save()


def _ways(metrics: dict[str, Any]) -> tuple[str, str]:
    """How the final scores were measured, and a note on the curves; nothing where both were measured in one way."""
    scores = metrics.get("inference")
    if not scores:
        return "", ""
    best, other = sorted(WAYS, key=lambda way: -scores[way])
    names = {"sliding": "in sliding windows", "whole": "on whole images"}
    return f" {names[best]}", f"{names[other]}; best: {names[best]}"


def _random_pairs(module: SegmentModule) -> list[Any]:
    """Images of the validation set with their masks."""
    data, random = module.data, np.random.default_rng(module.recipe.seed)
    pairs = []
    for index in random.permutation(len(data.val))[:_SAMPLES].tolist():
        with suppress(BadImage):  # the evaluation has skipped it too
            pairs.append(data.val.load(index))
    return pairs


def _samples_height(pairs: list[Any]) -> float:
    """The height in inches at which three rows of pictures are as wide as their columns."""
    shapes = [pair.image.height / pair.image.width for pair in pairs]
    return 0.7 + 3 * 2.6 * min(max(float(np.median(shapes)) if shapes else 1.0, 0.4), 1.2)


def _samples(figure: Any, module: SegmentModule, predictor: SegmentPredictor, pairs: list[Any]) -> None:
    """Each image, its mask and the prediction in a column."""
    style: Any = dict(x=0.012, ha="left", fontsize=12, fontweight="bold", color=plots.INK)
    figure.suptitle("Random images: image, truth, prediction", **style)
    axes = figure.subplots(3, _SAMPLES)
    for ax in axes.ravel():
        ax.set_axis_off()
    for column, pair in zip(axes.T, pairs, strict=False):
        masks = (pair.mask, predictor.segment(pair.image).numpy())
        pictures = [draw_segmentation(pair.image, mask, module.data.classes) for mask in masks]
        for ax, picture in zip(column, [pair.image.copy(), *pictures], strict=True):
            picture.thumbnail((480, 480))
            ax.imshow(np.asarray(picture))
