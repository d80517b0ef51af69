"""Image classification: what the trainer and `rmt evaluate` call, and the end of a run."""

import json
from collections.abc import Mapping
from typing import Any

from rmt.atomic import write_text
from rmt.tasks.classify.build import build, resolve
from rmt.tasks.classify.class_scores import MOST, class_scores, class_table, macro_f1
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.evaluate import ClassifyEvaluator, describe, evaluate_checkpoint, open_evaluation
from rmt.tasks.classify.mistakes import CONFIDENT, count_confident, surest_mistakes
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.plan import PLANNING
from rmt.tasks.finish import finish as finish_run
from rmt.terminal import plural
from rmt.training.results import summary_lines
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task

_COLUMNS = {"top-1": "top1", "top-5": "top5", "loss": "loss"}


def finish(module: ClassifyModule, run: FinishedRun) -> dict[str, Any]:
    """Evaluates last, averaged and best weights on the test images, or else those to validate on; see `Task.finish`."""
    from rmt.tasks.classify.report import draw_report  # matplotlib takes a second to import

    data, names = module.data, (*module.networks(), "best")

    def more_metrics(evaluators: Mapping[str, ClassifyEvaluator]) -> dict[str, Any]:
        predictions = evaluators["best"].predictions()
        mistakes = surest_mistakes(predictions, data.test)
        write_text(run.folder.report_json, json.dumps({"surest_mistakes": mistakes}, indent=2) + "\n")
        held_out = (
            {} if data.val is data.test else {"best_chosen_on": f"{plural(len(data.val), 'image')} held out of train"}
        )
        confusion = evaluators["best"].confusion_matrix()
        scores = class_scores(confusion, data.classes)
        images = {"train": len(data.train), "val": len(data.val)}
        return held_out | {
            "images": images if data.val is data.test else images | {"test": len(data.test)},
            "confident_mistakes": count_confident(predictions),
            "macro_f1": round(macro_f1(confusion), 2),
            "per_class": scores,
            "recall_percent": {name: of["recall"] or 0.0 for name, of in scores.items()},
        }

    return finish_run(
        module,
        run,
        evaluators={n: ClassifyEvaluator(len(data.classes), len(data.test), details=n == "best") for n in names},
        loader=data.eval_loader(module.recipe, data.test),
        split="val" if data.val is data.test else "test",
        more_metrics=more_metrics,
        draw_report=draw_report,
    )


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """See `Task.summary`."""
    # Runs of earlier versions called the validation images `test`, too, where there are no others.
    one_set = metrics.get("test_is_val", "test" not in metrics["best"])
    part = "val" if one_set else "test"
    columns = [(f"{part} {label}", part, name) for label, name in _COLUMNS.items()]
    if metrics.get("metric") == "macro_recall":
        columns.insert(1, (f"{part} macro recall", part, "macro_recall"))
    if not one_set:  # what best was chosen by
        by_recall = metrics.get("metric") == "macro_recall"
        columns.insert(0, ("val macro recall", "val", "macro_recall") if by_recall else ("val top-1", "val", "top1"))
    note = "there are no separate test images" if one_set else "the test images were read once, at the end"
    lines = []
    if scores := metrics.get("per_class"):
        lines.append(f"best weights on the {part} images: macro F1 {metrics['macro_f1']:.2f} %")
        if len(scores) <= MOST:
            lines += class_table(scores)
        else:
            worst = sorted(scores, key=lambda name: scores[name]["f1"])[:5]
            lowest = ", ".join(f"{name} {scores[name]['f1']:.1f} %" for name in worst)
            lines.append(f"lowest F1: {lowest}; all classes are in {folder.metrics_json}")
    if mistakes := metrics.get("confident_mistakes"):
        lines.append(
            f"{plural(mistakes, f'{part} image')} classified wrongly with a probability of {CONFIDENT} or more: check "
            f"their labels ({folder.report_json} lists the surest)"
        )
    return summary_lines(metrics, folder, columns, note=f"; {note}", more_lines=lines)


#: What the trainer and `rmt evaluate` call for this task, see `rmt.training.task.Task`.
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
