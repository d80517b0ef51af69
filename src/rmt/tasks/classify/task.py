"""Image classification: what the trainer and `rmt evaluate` call, and the end of a run."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from rmt.atomic import write_text
from rmt.tasks.classify.build import build, resolve
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.evaluate import ClassifyEvaluator, describe, evaluate_checkpoint, open_evaluation
from rmt.tasks.classify.mistakes import CONFIDENT, count_confident, surest_mistakes
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.plan import PLANNING
from rmt.tasks.finish import finish as finish_run
from rmt.training.results import summary_lines
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: ClassifyModule, run: FinishedRun) -> dict[str, Any]:
    """Evaluates last, averaged and best weights on the test images; see `Task.finish`."""
    from rmt.tasks.classify.report import draw_report  # matplotlib takes a second to import

    data, names = module.data, (*module.networks(), "best")

    def more_metrics(evaluators: Mapping[str, ClassifyEvaluator]) -> dict[str, Any]:
        predictions = evaluators["best"].predictions()
        mistakes = surest_mistakes(predictions, data.test)
        write_text(run.folder.report_json, json.dumps({"surest_mistakes": mistakes}, indent=2) + "\n")
        held_out = {} if data.val is data.test else {"best_chosen_on": f"{len(data.val):,} images held out of train"}
        return held_out | {
            "images": {"train": len(data.train), "val": len(data.val), "test": len(data.test)},
            "test_is_val": data.val is data.test,
            "confident_mistakes": count_confident(predictions),
            "recall_percent": _recall(data.classes, evaluators["best"].confusion_matrix()),
        }

    return finish_run(
        module,
        run,
        evaluators={n: ClassifyEvaluator(len(data.classes), len(data.test), details=n == "best") for n in names},
        loader=data.eval_loader(module.recipe, data.test),
        split="test",
        more_metrics=more_metrics,
        draw_report=draw_report,
    )


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """See `Task.summary`."""
    one_set = metrics.get("test_is_val", False)  # then the same images would be in the table twice
    part = "val" if one_set else "test"
    columns = [(f"{part} top-1", "test", "top1"), (f"{part} top-5", "test", "top5"), (f"{part} loss", "test", "loss")]
    if metrics.get("metric") == "macro_recall":
        columns.insert(1, (f"{part} macro recall", "test", "macro_recall"))
    if not one_set:
        columns.insert(0, ("val top-1", "val", "top1"))
    note = "there are no separate test images" if one_set else "the test images were read once, at the end"
    lines = []
    if mistakes := metrics.get("confident_mistakes"):
        lines.append(
            f"{mistakes:,} {part} images are classified wrongly with a probability of {CONFIDENT} or more: check their "
            f"labels ({folder.report_json} lists the surest)"
        )
    return summary_lines(metrics, folder, columns, note=f"; {note}", more_lines=lines)


def _recall(classes: tuple[str, ...], confusion: np.ndarray) -> dict[str, float]:
    """Recall of each class in percent; confusion (K, K) has a row per true class."""
    shares = 100 * confusion.diagonal() / confusion.sum(1).clip(min=1)
    return {name: round(float(share), 2) for name, share in zip(classes, shares, strict=True)}


TASK = Task(
    open_data=ClassifyData.open,
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    evaluate=evaluate_checkpoint,
    describe=describe,
    open_evaluation=open_evaluation,
    accuracy=("top-1", lambda result: result["top1"]),
    planning=PLANNING,
    bulky=("confusion",),
)
