"""`report.png` of a classification run: curves, confusion matrix, predictions, and how far each head looks."""

from typing import Any

import numpy as np

from rmt.data.images import BadImage
from rmt.inference.classify import ClassifyPredictor
from rmt.inference.runtime import TorchRuntime
from rmt.tasks.classify.evaluate import ClassifyEvaluator, Predictions
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.report_page import ReportPage, bars_height, best_predictor, class_bars, shown_classes
from rmt.terminal import plural, short
from rmt.training.logging import plots
from rmt.training.results import final_rows
from rmt.training.task import FinishedRun

_SAMPLES = 12  # pictures of each kind
_HEADING: Any = dict(ha="left", fontsize=12, fontweight="bold", color=plots.INK)


def draw_report(
    module: ClassifyModule,
    run: FinishedRun,
    metrics: dict[str, Any],
    evaluator: ClassifyEvaluator,
    network: TorchRuntime,
) -> None:
    """Draws the page. `evaluator`, with details on the test images, and `network` are of the best weights."""
    data = module.data
    ranked = shown_classes(sorted(metrics["per_class"].items(), key=lambda item: -item[1]["f1"]))
    bars = [(f"{short(name, 16)} ({of['images']:,})", of["f1"], of["recall"]) for name, of in ranked]
    predictor = best_predictor(ClassifyPredictor, module, network)
    page = ReportPage(module, run, metrics, predictor, [7.4, bars_height(bars)])
    part = "test" if "test" in metrics["images"] else "val"
    columns = module.metric_columns
    scores = [(name, f"{columns.of(entry[part]):.2f} %") for name, entry in final_rows(metrics)]
    page.title(scores, f"{part} {columns.label} on {plural(metrics['images'][part], 'image')}")
    note = f"on {plural(metrics['images']['val'], 'val image')}"
    page.curves(
        "Macro recall" if module.recipe.metric == "macro_recall" else "Top-1 accuracy",
        note,
        "training loss includes smoothing and augmentation",
        baseline=module.baseline.score,
    )
    left, right = page.rows[0].subfigures(1, 2, width_ratios=[1, 1])
    shown = f"best weights on {plural(metrics['images'][part], f'{part} image')}"
    top1 = f"{shown}, top-1 {metrics['best'][part]['top1']:.2f} %"
    plots.plot_confusion(left.subplots(), evaluator.confusion_matrix(), data.classes, top1)
    _samples(right, module, evaluator.predictions())
    best = f"{shown}, macro F1 {metrics['macro_f1']:.1f} %; tick: recall, dot: precision"
    precision = [of["precision"] for _, of in ranked]
    class_bars(page.rows[1].subplots(), "F1 by class (images), %", best, bars, precision)
    page.save()


def _samples(figure: Any, module: ClassifyModule, predictions: Predictions) -> None:
    """Random test images, and the errors of the highest probability."""
    data = module.data
    wrong = np.flatnonzero(predictions.predicted != predictions.label)
    wrong = wrong[np.argsort(-predictions.probability[wrong], kind="stable")]
    random = np.random.default_rng(module.recipe.seed).permutation(len(predictions.label))
    told = "above the predicted class with its probability, below the true one where it is another"
    rows = [("Random images", told, random), ("Most confident errors" if len(wrong) else "No errors", "", wrong)]
    for part, (name, note, indices) in zip(figure.subfigures(2, 1), rows, strict=True):
        plots.add_note(part.suptitle(name, x=0.02, **_HEADING), part, note)
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
