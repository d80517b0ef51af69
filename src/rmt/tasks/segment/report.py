"""`report.png` of a segmentation run: curves, IoU class by class, and what the network sees on validation images."""

from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from rmt.atomic import replace_file
from rmt.data.images import BadImage
from rmt.inference.drawing.masks import draw_segmentation
from rmt.inference.runtime import TorchRuntime
from rmt.inference.segment import SegmentPredictor
from rmt.tasks.segment.module import SegmentModule
from rmt.training.logging import plots as panels
from rmt.training.task import FinishedRun

_SAMPLES = 6
_MOST_CLASSES = 40  # bars in the panel of classes


def draw_report(module: SegmentModule, run: FinishedRun, metrics: dict[str, Any], model: TorchRuntime) -> None:
    """Draws the page; `model` has the best weights."""
    rows = _class_rows(metrics)
    page = Figure(figsize=(16, 12.4 + 0.22 * len(rows)), facecolor="white", layout="constrained")
    page.get_layout_engine().set(w_pad=0.12, h_pad=0.12, hspace=0.04)  # type: ignore[union-attr, call-arg]
    parts: Any = page.subfigures(4, 1, height_ratios=[1.1, 3.9, 1.2 + 0.22 * len(rows), 6.2])
    _title(parts[0], metrics)
    _curves(parts[1], module, run, metrics)
    _classes(parts[2].subplots(), rows)
    _samples(parts[3], module, run, model)
    with replace_file(run.folder.report) as draft:
        page.savefig(draft, dpi=100, format="png")


def _title(figure: Any, metrics: dict[str, Any]) -> None:
    last, best, machine = metrics["last"], metrics["best"], metrics["machine"]
    figures = [("last, raw", last["raw"])] + ([("last, EMA", last["ema"])] if "ema" in last else [])
    figures.append((f"best ({best['weights']})", best))
    scores = [(what, f"{entry['val']['miou']:.2f} %") for what, entry in figures]
    scores.append(("one class always", f"{metrics['details']['best']['most_frequent']['miou']:.2f} %"))
    facts = (
        f"{metrics['model']}, {metrics['parameters'] / 1e6:.2f} M parameters · {metrics['images']['train']:,} images · "
        f"{metrics['iterations']:,} iterations in {metrics['training_seconds'] / 60:.1f} min on {machine['device']} "
        f"({machine['precision']}) · seed {metrics['seed']}"
    )
    panels.title(figure, metrics["recipe"], facts, scores, f"mIoU, {metrics['images']['val']:,} images")


def _curves(figure: Any, module: SegmentModule, run: FinishedRun, metrics: dict[str, Any]) -> None:
    left, middle, right = figure.subplots(1, 3)
    history = run.history

    def curve(column: str, kind: str = "epoch") -> panels.Curve:
        return history.column(column, kind)

    panels.loss_panel(left, curve("train_loss", "step"), curve("train_loss"), ([], []), ([], []), unit="iteration")
    best = metrics["best"]
    place = (best["epoch"] * module.recipe.validate_every, best["val"]["miou"])
    note = f"on {metrics['images']['val']:,} validation images"
    panels.accuracy_panel(
        middle, curve("val_miou"), curve("ema_val_miou"), place, note, title="Mean IoU, %", unit="iteration"
    )
    panels.rate_panel(right, curve("lr", "step"), curve("images_per_s"), unit="iteration")


def _class_rows(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """The classes that occur, best IoU first; of very many the best and the worst."""
    known = [row for row in metrics["details"]["best"]["per_class"] if row["iou"] is not None]
    known.sort(key=lambda row: -row["iou"])
    half = _MOST_CLASSES // 2
    return known if len(known) <= _MOST_CLASSES else known[:half] + known[-half:]


def _classes(ax: Any, rows: list[dict[str, Any]]) -> None:
    panels.quiet(ax)
    panels.heading(ax, "IoU by class, %", "best weights; the tick is the class's accuracy")
    places = np.arange(len(rows))
    ax.barh(places, [row["iou"] for row in rows], color=panels.RAW, height=0.62)
    accuracy = [row["accuracy"] if row["accuracy"] is not None else np.nan for row in rows]
    ax.plot(accuracy, places, "|", color=panels.INK, markersize=9, markeredgewidth=1.5)
    for place, row in zip(places, rows, strict=True):
        ax.text(row["iou"] + 0.6, place, f"{row['iou']:.1f}", va="center", fontsize=8, color=panels.MUTED)
    ax.set_yticks(places, [row["class"] for row in rows])
    ax.tick_params(axis="y", colors=panels.INK)
    ax.invert_yaxis()
    ax.set_xlim(0, 104)
    ax.grid(axis="y", visible=False)


def _samples(figure: Any, module: SegmentModule, run: FinishedRun, model: TorchRuntime) -> None:
    """Validation images drawn at random: the image, the truth, the answer."""
    data, draw = module.data, np.random.default_rng(module.recipe.seed)
    metadata = {"classes": data.classes, "preprocessing": module.preprocessing, "recipe": module.recipe.as_dict()}
    predictor = SegmentPredictor(model, metadata)
    figure.suptitle(
        "Drawn at random: image, truth, answer",
        **dict(x=0.012, ha="left", fontsize=12, fontweight="bold", color=panels.INK),
    )
    axes = figure.subplots(3, _SAMPLES)
    for ax in axes.ravel():
        ax.set_axis_off()
    for column, index in zip(axes.T, draw.permutation(len(data.val))[:_SAMPLES].tolist(), strict=False):
        try:
            pair = data.val.load(index)
        except BadImage:  # it was passed over when scored
            continue
        pictures = [
            draw_segmentation(pair.image, mask, data.classes)
            for mask in (pair.mask, predictor.segment(pair.image).numpy())
        ]
        for ax, picture in zip(column, [pair.image, *pictures], strict=True):
            picture = picture.copy()
            picture.thumbnail((480, 480))
            ax.imshow(np.asarray(picture))
