"""`report.png`: one page on a run. Curves, confusion matrix, sample predictions, and how far each head sees."""

from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from rmt.atomic import replace_file
from rmt.data.images import BadImage
from rmt.model import ManhattanSelfAttention
from rmt.ops import decay_rates
from rmt.tasks.classify.evaluate import Predictions
from rmt.tasks.classify.module import ClassifyModule
from rmt.training.logging import plots as panels
from rmt.training.logging.history import History
from rmt.training.run_folder import RunFolder

_SAMPLES = 8  # pictures of each kind


def draw_report(
    folder: RunFolder,
    module: ClassifyModule,
    history: History,
    metrics: dict[str, Any],
    confusion: np.ndarray,
    answers: Predictions,
    model: nn.Module,
) -> None:
    """Draws the page. `confusion` (K, K) and `answers` are of the best weights on the test images."""
    stages = heads_by_stage(model, module.recipe.image_size)
    decay_height = 1.0 + 1.35 * _decay_grid(stages)[1]
    page = Figure(figsize=(16, 12.4 + decay_height), facecolor="white", layout="constrained")
    page.get_layout_engine().set(w_pad=0.12, h_pad=0.12, hspace=0.04)  # type: ignore[union-attr, call-arg]
    parts: Any = page.subfigures(4, 1, height_ratios=[1.1, 3.9, 7.4, decay_height])
    top, curves, middle, bottom = parts
    _title(top, metrics)
    _curves(curves, module, history, metrics)
    left, right = middle.subfigures(1, 2, width_ratios=[1, 1.06])
    panels.confusion_panel(left.subplots(), confusion, module.data.classes)
    _samples(right, module, answers)
    _decay(bottom, stages)
    with replace_file(folder.report) as draft:
        page.savefig(draft, dpi=100, format="png")


@dataclass(frozen=True)
class Stage:
    """What a stage's heads see: γ per head, (height, width) in tokens, and whether rows and columns go one by one."""

    rates: list[float]
    grid: tuple[int, int]
    decomposed: bool


def heads_by_stage(model: nn.Module, image_size: int) -> list[Stage]:
    """The stages of the network at that image size."""
    found = []
    strides = [info["reduction"] for info in model.feature_info]  # type: ignore[union-attr]
    for stage, stride in zip(model.stages, strides, strict=True):  # type: ignore[arg-type]
        attention = next(m for m in stage.modules() if isinstance(m, ManhattanSelfAttention))
        side = -(-image_size // stride)
        rates = decay_rates(attention.num_heads, attention.decay_range)
        found.append(Stage(rates, (side, side), attention.decomposed))
    return found


def _title(figure: Any, metrics: dict[str, Any]) -> None:
    last, best = metrics["last"], metrics["best"]
    figures = [("last epoch, raw", last["raw"]["test"]["top1"])]
    if "ema" in last:
        figures.append(("last epoch, EMA", last["ema"]["test"]["top1"]))
    figures.append((f"best epoch ({best['epoch']}, {best['weights']})", best["test"]["top1"]))
    seconds = metrics["training_seconds"]
    images, machine = metrics["images"], metrics["machine"]
    facts = (
        f"{metrics['model']}, {metrics['parameters'] / 1e6:.2f} M parameters · {images['train']:,} training images, "
        f"{metrics['classes']} classes · {last['epoch']} epochs in {seconds / 60:.1f} min on {machine['device']} "
        f"({machine['precision']}) · seed {metrics['seed']}"
    )
    scores = [(what, f"{value:.2f} %") for what, value in figures]
    part = "validation" if metrics["test_is_val"] else "test"
    panels.title(figure, metrics["recipe"], facts, scores, f"{part} top-1 on {images['test']:,} images")


def _curves(figure: Any, module: ClassifyModule, history: History, metrics: dict[str, Any]) -> None:
    left, middle, right = figure.subplots(1, 3)
    updates = max(module.updates_per_epoch, 1)

    def curve(column: str, kind: str = "epoch") -> panels.Curve:
        steps, values = history.column(column, kind)
        return [step / updates for step in steps], values

    panels.loss_panel(left, curve("train_loss", "step"), curve("train_loss"), curve("val_loss"), curve("ema_val_loss"))
    best = metrics["best"]
    note = f"on {metrics['images']['val']:,} " + (
        "validation images" if module.data.val is module.data.test else "images held out of train"
    )
    panels.accuracy_panel(middle, curve("val_top1"), curve("ema_val_top1"), (best["epoch"], best["val"]["top1"]), note)
    panels.rate_panel(right, curve("lr", "step"), curve("images_per_s"))


def _samples(figure: Any, module: ClassifyModule, answers: Predictions) -> None:
    """Test images drawn at random, and the mistakes the network was surest of."""
    data, draw = module.data, np.random.default_rng(module.recipe.seed)
    wrong = np.flatnonzero(answers.predicted != answers.label)
    rows = [
        ("Drawn at random", draw.permutation(len(answers.label))[:_SAMPLES]),
        (
            "Surest mistakes" if len(wrong) else "No mistakes",
            wrong[np.argsort(-answers.probability[wrong], kind="stable")][:_SAMPLES],
        ),
    ]
    for part, (name, chosen) in zip(figure.subfigures(2, 1), rows, strict=True):
        grid = part.subplots(2, _SAMPLES // 2).ravel()
        part.suptitle(name, x=0.02, ha="left", fontsize=12, fontweight="bold", color=panels.INK)
        for ax in grid:
            ax.set_axis_off()
        for ax, place in zip(grid, chosen, strict=False):
            try:
                image = data.test.load(int(answers.index[place]))
            except BadImage:  # gone since it was scored
                continue
            ax.set_axis_on()
            truth, called = data.classes[answers.label[place]], data.classes[answers.predicted[place]]
            panels.picture_panel(ax, _thumbnail(image), truth, called, float(answers.probability[place]))


def _decay(figure: Any, stages: list[Stage]) -> None:
    """One block per stage, side by side, with a panel per head."""
    style: Any = dict(ha="left", fontsize=12, fontweight="bold", color=panels.INK)
    title = figure.suptitle("How far each head sees", x=0.012, **style)
    note = "prior γ^(|dx|+|dy|) around the middle token; the frame is the whole image, ½ the distance that halves it"
    panels.note_behind(title, figure, note)
    columns, rows = _decay_grid(stages)
    for number, (block, stage) in enumerate(
        zip(figure.subfigures(1, len(stages), squeeze=False)[0], stages, strict=True), 1
    ):
        form = "rows, then columns" if stage.decomposed else "all pairs"
        label = f"stage {number}: {stage.grid[0]}×{stage.grid[1]} tokens, {form}"
        block.suptitle(label, fontsize=9.5, color=panels.INK)
        grid = block.subplots(rows, columns, squeeze=False).ravel()
        for ax in grid[len(stage.rates) :]:
            ax.set_axis_off()
        for ax, gamma in zip(grid, stage.rates, strict=False):
            panels.decay_panel(ax, gamma, stage.grid)


def _decay_grid(stages: list[Stage]) -> tuple[int, int]:
    """(columns, rows) of panels per stage: as many columns as the page has room for."""
    heads = max(len(stage.rates) for stage in stages)
    columns = min(heads, max(16 // len(stages), 1))
    return columns, -(-heads // columns)


def _thumbnail(image: Any) -> np.ndarray:
    """(H, W, 3) uint8, at most 256 pixels a side."""
    image = image.copy()
    image.thumbnail((256, 256))
    return np.asarray(image)
