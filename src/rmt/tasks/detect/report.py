"""`report.png` of a detection run: curves, AP, precision and recall of each class, and predictions beside the truth."""

from typing import Any

import numpy as np

from rmt.data.detection.dataset import DetectionSet
from rmt.data.detection.rle import encode
from rmt.data.images import BadImage
from rmt.inference.detect import Detections, DetectPredictor
from rmt.inference.drawing.boxes import MIN_SCORE, LabelledBox, draw_boxes, labelled_boxes
from rmt.inference.runtime import Runtime
from rmt.tasks.detect.evaluate import DetectEvaluator
from rmt.tasks.detect.module import DetectModule
from rmt.tasks.report_page import ReportPage, bars_height, best_predictor, class_bars, shown_classes
from rmt.terminal import plural
from rmt.training.logging import plots
from rmt.training.task import FinishedRun

_SAMPLES = 6
_CURVES = 8  # classes in the plot of precision and recall


def draw_report(
    module: DetectModule, run: FinishedRun, metrics: dict[str, Any], evaluator: DetectEvaluator, network: Runtime
) -> None:
    """Draws the page; `evaluator` has the detections of the best weights in the validation images."""
    detections = evaluator.detections
    chosen = np.random.default_rng(module.recipe.seed).permutation(sorted(detections))[:_SAMPLES].tolist()
    ranked = sorted(((100 * ap, name) for name, ap in metrics["per_class"]["box"].items() if ap >= 0), reverse=True)
    curves = {name: 100 * float(np.mean(of)) for name, of in evaluator.metrics.precision50["box"].items() if of[0] >= 0}
    bars = [(name, ap, curves.get(name)) for ap, name in shown_classes(ranked)]
    sample_height = 3.5 if module.data.val.groups[chosen].all() else 4.3  # all wide, or an upright one among them
    heights = [max(bars_height(bars), 4.2), sample_height * -(-len(chosen) // 2)]
    page = ReportPage(module, run, metrics, best_predictor(DetectPredictor, module, network), heights)
    last = metrics["last"]["raw"]["val"]
    names = [name for name in ("box_ap", "box_ap50", "mask_ap", "mask_ap50") if name in last]
    scores = [(name.replace("_ap50", " AP50").replace("_ap", " AP"), f"{last[name]:.1f}") for name in names]
    page.title(scores, f"last epoch, {plural(len(module.data.val), 'validation image')}, %")
    label = module.metric_columns.label
    page.curves(label[0].upper() + label[1:], "on the images that best was chosen on", "sum of all losses")
    left, right = page.rows[0].subplots(1, 2, width_ratios=[1.3, 1])
    class_bars(left, "Box AP by class, %", "best weights; the tick is the AP at IoU 0.5", bars)
    threshold = metrics["best"].get("threshold")
    _precision_recall(right, evaluator, curves, threshold)
    _samples(page.rows[1], module, detections, chosen, threshold["score"] if threshold else MIN_SCORE)
    page.save()


def _precision_recall(
    ax: Any, evaluator: DetectEvaluator, ap50: dict[str, float], threshold: dict[str, float] | None
) -> None:
    """Of many classes those of the highest AP50, and the threshold that gives the best F1."""
    shown = sorted(ap50, key=lambda name: -ap50[name])[:_CURVES]
    curves = [(name, ap50[name], np.array(evaluator.metrics.precision50["box"][name])) for name in shown]
    point = None
    if threshold is not None:
        text = f"suggested threshold {threshold['score']:.2f}: F1 {threshold['f1']:.1f} %"
        point = threshold["recall"], threshold["precision"], text
    plots.plot_precision_recall(ax, curves, point)


def _samples(
    figure: Any, module: DetectModule, detections: dict[int, Detections], chosen: list[int], threshold: float
) -> None:
    """Each chosen image twice: with the annotated objects, and with those that were found."""
    images = module.data.val
    axes = figure.subplots(-(-len(chosen) // 2), 4, squeeze=False).reshape(-1, 2)
    for ax in axes.ravel():
        ax.set_axis_off()
    for pair, index in zip(axes, chosen, strict=False):
        try:
            image = images.load(index)
        except BadImage:  # removed since the evaluation
            continue
        found = detections[index]
        boxes = labelled_boxes(
            found.boxes, found.labels, found.masks, images.classes, scores=found.scores, threshold=threshold
        )
        shown = (("truth", true_boxes(images, index)), (f"predictions with a score of {threshold:.2g} or more", boxes))
        for ax, (title, objects) in zip(pair, shown, strict=True):
            ax.imshow(np.asarray(draw_boxes(image, objects, 700)))
            ax.set_title(title, fontsize=9, color=plots.MUTED, loc="left")


def true_boxes(images: DetectionSet, index: int) -> list[LabelledBox]:
    """The annotated objects of an image; the largest last, so that small ones stay visible."""
    objects = images.objects(index)
    order = np.argsort((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1), kind="stable")
    masks = None if objects.masks is None else encode(objects.masks[order].astype(bool))
    return labelled_boxes(objects.boxes[order], objects.labels[order], masks, images.classes)
