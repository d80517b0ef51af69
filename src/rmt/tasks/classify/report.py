"""`report.png` of a classification run: curves, confusion matrix, predictions, and the decay of each head."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from rmt.data.images import BadImage
from rmt.inference.runtime import TorchRuntime
from rmt.model import RMT, ManhattanSelfAttention
from rmt.ops import decay_rates
from rmt.tasks.classify.evaluate import ClassifyEvaluator, Predictions
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.report_page import ReportPage, bars_height, class_bars, shown_classes
from rmt.terminal import short
from rmt.training.logging import plots
from rmt.training.results import final_rows
from rmt.training.task import FinishedRun

_SAMPLES = 8  # pictures of each kind
_HEADING: Any = dict(ha="left", fontsize=12, fontweight="bold", color=plots.INK)


def draw_report(
    module: ClassifyModule,
    run: FinishedRun,
    metrics: dict[str, Any],
    evaluator: ClassifyEvaluator,
    network: TorchRuntime,
) -> None:
    """Draws the page. `evaluator`, with details on the test images, and `network` are of the best weights."""
    stages = stage_decays(network.model, module.recipe.image_size)
    rows, columns = _decay_grid(stages) if stages else (0, 0)
    bars = [
        (f"{short(name, 16)} ({of['images']:,})", of["f1"], of["recall"])
        for name, of in sorted(metrics["per_class"].items(), key=lambda item: -item[1]["f1"])
    ]
    heights = [7.4, bars_height(shown_classes(bars)), *([1.0 + 1.35 * rows] if stages else [])]
    page = ReportPage(module, run, metrics, heights)
    part = "test" if "test" in metrics["images"] else "val"
    scores = [(name, f"{entry[part]['top1']:.2f} %") for name, entry in final_rows(metrics)]
    page.title(scores, f"{part} top-1 on {metrics['images'][part]:,} images")
    note = f"on {metrics['images']['val']:,} val images"
    page.curves(
        "Macro recall" if module.recipe.metric == "macro_recall" else "Top-1 accuracy",
        note,
        "training loss includes smoothing and augmentation",
    )
    left, right = page.rows[0].subfigures(1, 2, width_ratios=[1, 1.06])
    plots.plot_confusion(left.subplots(), evaluator.confusion_matrix(), module.data.classes)
    _samples(right, module, evaluator.predictions())
    best = f"best weights on the {part} images, macro F1 {metrics['macro_f1']:.1f} %; the tick is the recall"
    class_bars(page.rows[1].subplots(), "F1 by class (images), %", best, shown_classes(bars))
    if stages:
        _decays(page.rows[2], stages, rows, columns)
    page.save()


@dataclass(frozen=True)
class StageDecay:
    """γ of each head of a stage, its grid (height, width) in tokens, and whether its attention is decomposed.

    An attention without a decay of the Manhattan distance has no rates: `decay="none"`, or one in MaSA's place.
    """

    rates: list[float]
    grid: tuple[int, int]
    decomposed: bool


def stage_decays(model: nn.Module, image_size: int) -> list[StageDecay]:
    """The decays of a network's stages, and their grids at that image size; none for the networks of timm."""
    if not isinstance(model, RMT):
        return []
    stages = []
    strides = [info["reduction"] for info in model.feature_info]
    for stage, stride in zip(model.stages, strides, strict=True):
        attention = next(m for m in stage.modules() if isinstance(m, ManhattanSelfAttention))
        side = -(-image_size // stride)
        has_decay = type(attention) is ManhattanSelfAttention and attention.decay != "none"
        rates = decay_rates(attention.num_heads, attention.decay_range) if has_decay else []
        stages.append(StageDecay(rates, (side, side), attention.decomposed))
    return stages


def _samples(figure: Any, module: ClassifyModule, predictions: Predictions) -> None:
    """Random test images, and the errors of the highest probability."""
    data = module.data
    wrong = np.flatnonzero(predictions.predicted != predictions.label)
    wrong = wrong[np.argsort(-predictions.probability[wrong], kind="stable")]
    random = np.random.default_rng(module.recipe.seed).permutation(len(predictions.label))
    rows = [("Random images", random), ("Most confident errors" if len(wrong) else "No errors", wrong)]
    for part, (name, indices) in zip(figure.subfigures(2, 1), rows, strict=True):
        part.suptitle(name, x=0.02, **_HEADING)
        axes = part.subplots(2, _SAMPLES // 2).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, index in zip(axes, indices[:_SAMPLES], strict=False):
            try:
                image = data.test.load(int(predictions.index[index])).copy()
            except BadImage:  # removed since the evaluation
                continue
            image.thumbnail((256, 256))
            ax.set_axis_on()
            truth, predicted = (data.classes[values[index]] for values in (predictions.label, predictions.predicted))
            plots.draw_prediction(ax, np.asarray(image), truth, predicted, float(predictions.probability[index]))


def _decays(figure: Any, stages: list[StageDecay], rows: int, columns: int) -> None:
    """A block for each stage, with a panel for each head."""
    title = figure.suptitle("Decay of each head", x=0.012, **_HEADING)
    note = "γ^(|Δx|+|Δy|) around the middle token; the frame is the whole image, ½ the distance that halves it"
    plots.add_note(title, figure, note)
    blocks = figure.subfigures(1, len(stages), squeeze=False)[0]
    for number, (block, stage) in enumerate(zip(blocks, stages, strict=True), 1):
        form = "rows, then columns" if stage.decomposed else "all pairs"
        form = form if stage.rates else "no decay"
        label = f"stage {number}: {stage.grid[0]}×{stage.grid[1]} tokens, {form}"
        block.suptitle(label, fontsize=9.5, color=plots.INK)
        axes = block.subplots(rows, columns, squeeze=False).ravel()
        for ax in axes[len(stage.rates) :]:
            ax.set_axis_off()
        for ax, gamma in zip(axes, stage.rates, strict=False):
            plots.plot_decay(ax, gamma, stage.grid)


def _decay_grid(stages: list[StageDecay]) -> tuple[int, int]:
    """(rows, columns) of panels in each stage's block: as many columns as the page has room for."""
    heads = max(1, *(len(stage.rates) for stage in stages))
    columns = min(heads, max(16 // len(stages), 1))
    return -(-heads // columns), columns
