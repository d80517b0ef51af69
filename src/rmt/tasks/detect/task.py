"""Detection and instance segmentation: what the trainer and `rmt evaluate` call, and the end of a run."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rmt.tasks.detect.build import build, resolve
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.evaluate import DetectEvaluator, describe, evaluate_checkpoint, open_evaluation
from rmt.tasks.detect.module import DetectModule
from rmt.tasks.detect.plan import PLANNING
from rmt.tasks.detect.threshold import best_threshold
from rmt.tasks.finish import finish as finish_run
from rmt.training.results import summary_lines
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: DetectModule, run: FinishedRun) -> dict[str, Any]:
    """Evaluates the best weights; last and averaged ones keep the scores of the last epoch. See `Task.finish`."""
    from rmt.tasks.detect.report import draw_report  # matplotlib takes a second to import

    def more_metrics(evaluators: Mapping[str, DetectEvaluator]) -> dict[str, Any]:
        return {"head": module.recipe.head, "per_class": evaluators["best"].metrics.per_class}

    def threshold(evaluator: DetectEvaluator) -> dict[str, Any]:
        found = best_threshold(evaluator.images, evaluator.detections)
        return {"threshold": None if found is None else asdict(found)}

    return finish_run(
        module,
        run,
        evaluators={"best": module.build_evaluator()},
        more_metrics=more_metrics,
        more_about_best=threshold,
        draw_report=draw_report,
    )


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """See `Task.summary`."""
    names = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50")
    last = metrics["last"]["raw"]["val"]
    columns = [(name.replace("_ap", " AP"), "val", name) for name in names if name in last]
    return summary_lines(metrics, folder, columns, more_lines=threshold_lines(metrics["best"].get("threshold")))


def threshold_lines(threshold: dict[str, float] | None) -> list[str]:
    """The suggested score threshold (a `ScoreThreshold` as a dictionary) in one line; none if there is none."""
    if threshold is None:
        return []
    return [
        f"score threshold {threshold['score']:g} gives the best F1 at IoU 0.5 on the validation images: "
        f"{threshold['f1']:.1f} % (precision {threshold['precision']:.1f} %, recall {threshold['recall']:.1f} %); "
        "rmt predict uses it unless --threshold is given"
    ]


#: What the trainer and `rmt evaluate` call for this task, see `rmt.training.task.Task`.
TASK = Task(
    open_data=DetectData.open,
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    evaluate=evaluate_checkpoint,
    describe=describe,
    open_evaluation=open_evaluation,
    accuracy=("AP", lambda result: 100 * result["figures"]["box"]["ap"]),
    planning=PLANNING,
    bulky=("results",),
)
