"""Detection and instance segmentation: what the trainer and `rmt evaluate` call, and the end of a run."""

from typing import Any

from rmt.inference.runtime import TorchRuntime
from rmt.tasks.detect.build import build, resolve
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.evaluate import describe, evaluate_checkpoint
from rmt.tasks.detect.module import DetectModule
from rmt.training.evaluator import evaluate
from rmt.training.results import common_metrics, final_networks, summary_lines, write
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: DetectModule, run: FinishedRun) -> dict[str, Any]:
    """Evaluates the best weights; last and averaged ones keep the scores of the last epoch. See `Task.finish`."""
    from rmt.tasks.detect.report import draw_report  # matplotlib takes a second to import

    data, best = module.data, final_networks(module, run)["best"]
    evaluator, runtime = module.build_evaluator(), TorchRuntime(best, run.device, run.precision)
    evaluate({"best": evaluator}, {"best": runtime}, data.val_loader(module.recipe), run.device)
    scores = evaluator.coco_metrics()
    metrics = common_metrics(module, run, {**module.progress.val, "best": scores.percent()}, split="val")
    metrics["head"] = module.recipe.head
    metrics["images"] = {"train": len(data.train), "val": len(data.val)}
    metrics["best_chosen_on"] = f"the {len(data.val):,} validation images themselves, which flatters it"
    metrics["unreadable"] = {"train and val": module.progress.bad_images | evaluator.unreadable}
    metrics["per_class"] = scores.per_class
    write(module, run, metrics, best)
    draw_report(module, run, metrics, evaluator.detections)
    return metrics


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """See `Task.summary`."""
    names = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50")
    last = metrics["last"]["raw"]["val"]
    columns = [(name.replace("_ap", " AP"), "val", name) for name in names if name in last]
    return summary_lines(metrics, folder, columns)


TASK = Task(
    open_data=DetectData.open,
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    evaluate=evaluate_checkpoint,
    describe=describe,
    bulky=("results",),
)
