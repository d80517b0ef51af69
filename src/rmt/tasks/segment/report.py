"""`report.png` of a segmentation run: curves, IoU of each class, and predictions for validation images."""

from typing import Any

import numpy as np

from rmt.data.images import BadImage
from rmt.inference.drawing.masks import draw_segmentation
from rmt.inference.runtime import Runtime
from rmt.inference.segment import SegmentPredictor
from rmt.tasks.report_page import ReportPage, bars_height, best_predictor, class_bars, shown_classes
from rmt.tasks.segment.evaluate import SegmentEvaluator
from rmt.tasks.segment.module import COLUMNS, SegmentModule
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
    page = ReportPage(module, run, metrics, predictor, [bars_height(bars), 6.2])
    scores = [(name, f"{entry['val']['miou']:.2f} %") for name, entry in final_rows(metrics)]
    scores.append(("one class always", f"{details['most_frequent']['miou']:.2f} %"))
    page.title(scores, f"mIoU, {plural(metrics['images']['val'], 'image')}")
    label = "Mean IoU" if module.recipe.metric == "miou" else COLUMNS[module.recipe.metric].capitalize()
    page.curves(
        label,
        f"on {plural(metrics['images']['val'], 'validation image')}",
        "training loss includes augmentation",
        baseline=details["most_frequent"].get(module.recipe.metric),
    )
    class_bars(page.rows[0].subplots(), "IoU by class, %", "best weights; the tick is the accuracy of the class", bars)
    _samples(page.rows[1], module, predictor)
    page.save()


def _samples(figure: Any, module: SegmentModule, predictor: SegmentPredictor) -> None:
    """Random validation images: the image, the mask, the prediction."""
    data, random = module.data, np.random.default_rng(module.recipe.seed)
    style: Any = dict(x=0.012, ha="left", fontsize=12, fontweight="bold", color=plots.INK)
    figure.suptitle("Random images: image, truth, prediction", **style)
    axes = figure.subplots(3, _SAMPLES)
    for ax in axes.ravel():
        ax.set_axis_off()
    for column, index in zip(axes.T, random.permutation(len(data.val))[:_SAMPLES].tolist(), strict=False):
        try:
            pair = data.val.load(index)
        except BadImage:  # the evaluation has skipped it too
            continue
        masks = (pair.mask, predictor.segment(pair.image).numpy())
        pictures = [draw_segmentation(pair.image, mask, data.classes) for mask in masks]
        for ax, picture in zip(column, [pair.image.copy(), *pictures], strict=True):
            picture.thumbnail((480, 480))
            ax.imshow(np.asarray(picture))
