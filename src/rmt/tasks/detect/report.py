"""`report.png` of a detection run: curves, AP per class, and validation images with what was found beside the truth."""

from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from rmt.atomic import replace_file
from rmt.data.detection.coco import CocoSet
from rmt.data.detection.rle import encode
from rmt.data.images import BadImage
from rmt.inference.detect import Detections
from rmt.inference.drawing.boxes import LabelledBox, draw_boxes, labelled_boxes, side_by_side
from rmt.tasks.detect.metrics import CocoMetrics
from rmt.tasks.detect.module import DetectModule
from rmt.training.logging import plots as panels
from rmt.training.task import FinishedRun

_PICTURES = 6


def draw_report(
    module: DetectModule,
    run: FinishedRun,
    metrics: dict[str, Any],
    scores: CocoMetrics,
    detections: dict[int, Detections],
) -> None:
    """Draws the page; `scores` and `detections` are of the best weights."""
    chosen = sorted(detections)
    data, draws = module.data, np.random.default_rng(module.recipe.seed).permutation(len(chosen))[:_PICTURES]
    page = Figure(figsize=(16, 18), facecolor="white", layout="constrained")
    page.get_layout_engine().set(w_pad=0.12, h_pad=0.12, hspace=0.04)  # type: ignore[union-attr, call-arg]
    parts: Any = page.subfigures(3, 1, height_ratios=[1.2, 4, 12.8])
    _title(parts[0], metrics, len(data.val))
    _curves(parts[1], run, metrics, scores, module.updates_per_epoch)
    grid = parts[2].subplots(3, 2).ravel()
    for ax in grid:
        ax.set_axis_off()
    for ax, place in zip(grid, (chosen[i] for i in draws), strict=False):
        try:
            image = data.val.load(place)
        except BadImage:  # gone since it was scored
            continue
        found = detections[place]
        pair = [
            true_boxes(data.val, place),
            labelled_boxes(found.boxes, found.labels, found.masks, data.classes, scores=found.scores),
        ]
        ax.imshow(np.asarray(side_by_side([draw_boxes(image, objects, 700) for objects in pair])))
        ax.set_title(
            "truth (left), found at a score of 0.5 or more (right)", fontsize=9, color=panels.MUTED, loc="left"
        )
    with replace_file(run.folder.report) as draft:
        page.savefig(draft, dpi=100, format="png")


def true_boxes(images: CocoSet, place: int) -> list[LabelledBox]:
    """The objects of an image as annotated, largest last, so that small ones stay visible."""
    objects = images.objects(place)
    order = np.argsort((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1), kind="stable")
    masks = None if objects.masks is None else encode(objects.masks[order].astype(bool))
    return labelled_boxes(objects.boxes[order], objects.labels[order], masks, images.classes)


def _title(figure: Any, metrics: dict[str, Any], judged: int) -> None:
    images, machine = metrics["images"], metrics["machine"]
    facts = (
        f"{metrics['head']} on {metrics['model']}, {metrics['parameters'] / 1e6:.2f} M parameters · "
        f"{images['train']:,} training images, classes: {metrics['classes']} · {metrics['last']['epoch']} epochs in "
        f"{metrics['training_seconds'] / 60:.1f} min on {machine['device']} · seed {metrics['seed']}"
    )
    last = metrics["last"]["raw"]["val"]
    names = [name for name in ("box_ap", "box_ap50", "mask_ap", "mask_ap50") if name in last]
    scores = [(name.replace("_ap50", " AP50").replace("_ap", " AP"), f"{last[name]:.1f}") for name in names]
    panels.title(figure, metrics["recipe"], facts, scores, f"last epoch, {judged:,} images, %")


def _curves(figure: Any, run: FinishedRun, metrics: dict[str, Any], scores: CocoMetrics, updates: int) -> None:
    left, middle, right = figure.subplots(1, 3)

    def curve(column: str, kind: str = "epoch") -> panels.Curve:
        steps, values = run.history.column(column, kind)
        return [step / updates for step in steps], values

    none: panels.Curve = ([], [])
    panels.loss_panel(left, curve("train_loss", "step"), curve("train_loss"), none, none, note="all parts summed")
    best = metrics["best"]
    point = best["epoch"], best["val"]["box_ap"]
    note = "on the images that best was chosen on"
    panels.accuracy_panel(middle, curve("val_box_ap"), curve("ema_val_box_ap"), point, note, title="Box AP, %")
    if len(scores.per_class["box"]) > 1:
        _classes(right, scores)
    else:
        panels.rate_panel(right, curve("lr", "step"), curve("images_per_s"))


def _classes(ax: Any, scores: CocoMetrics, most: int = 20) -> None:
    """AP per class as bars, best first."""
    panels.quiet(ax)
    panels.heading(ax, "Box AP per class, %", "best weights")
    ranked = sorted(((value, name) for name, value in scores.per_class["box"].items() if value >= 0), reverse=True)[
        :most
    ]
    places = range(len(ranked))
    ax.barh(places, [100 * value for value, _ in ranked], color=panels.RAW, height=0.7)
    ax.set_yticks(places, [name if len(name) < 24 else name[:23] + "…" for _, name in ranked], color=panels.INK)
    ax.invert_yaxis()
    ax.set_xlim(0, 100)
