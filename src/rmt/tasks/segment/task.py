"""Semantic segmentation: what the trainer and `rmt evaluate` call, and the end of a run."""

from collections.abc import Mapping
from typing import Any

from rmt.tasks.finish import finish as finish_run
from rmt.tasks.segment.build import build, resolve
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.evaluate import (
    SegmentEvaluator,
    describe,
    evaluate_checkpoint,
    open_evaluation,
    segmentation_results,
)
from rmt.tasks.segment.inference import WAYS, choose_inference
from rmt.tasks.segment.module import COLUMNS, SegmentModule
from rmt.tasks.segment.plan import PLANNING
from rmt.training.results import summary_lines
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: SegmentModule, run: FinishedRun) -> dict[str, Any]:
    """Evaluates last, averaged and best weights on the validation images; see `Task.finish`."""
    from rmt.tasks.segment.report import draw_report  # matplotlib takes a second to import

    compared = choose_inference(module, run) if module.recipe.choose_inference else {}

    def more_metrics(evaluators: Mapping[str, SegmentEvaluator]) -> dict[str, Any]:
        found = {n: segmentation_results(e.counts(), module.data.classes) for n, e in evaluators.items()}
        found = {name: {k: v for k, v in of.items() if k != "confusion"} for name, of in found.items()}
        return {"iterations": module.recipe.iterations, "inference": compared, "details": found}

    return finish_run(module, run, more_metrics=more_metrics, draw_report=draw_report)


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """See `Task.summary`."""
    columns = [(label, "val", name) for name, label in COLUMNS.items()]
    constant = metrics["details"]["best"]["most_frequent"]
    row = (f"always {constant['class']}", *(f"{constant[key]:.2f} %" for _, _, key in columns))
    lines = []
    if scores := metrics.get("inference"):
        best = max(scores, key=lambda mode: scores[mode])
        other = next(mode for mode in scores if mode != best)
        lines.append(
            f"inference: {WAYS[best]} ({scores[best]:.2f} %) rather than {WAYS[other]} ({scores[other]:.2f} %); the "
            "weight files say so, and rmt evaluate and predict follow unless --inference is given"
        )
    return summary_lines(metrics, folder, columns, more_rows=[row], more_lines=lines)


#: What the trainer and `rmt evaluate` call for this task, see `rmt.training.task.Task`.
TASK = Task(
    open_data=SegmentData.open,
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    evaluate=evaluate_checkpoint,
    describe=describe,
    open_evaluation=open_evaluation,
    accuracy=("mIoU", lambda result: result["miou"]),
    planning=PLANNING,
    bulky=("confusion",),
)
