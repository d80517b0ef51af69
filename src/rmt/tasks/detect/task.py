"""Detection and instance segmentation: what the trainer and `rmt evaluate` call, and the end of a run."""

from typing import Any

from rmt.inference.runtime import TorchRuntime
from rmt.tasks.detect.build import build, resolve
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.evaluate import describe, evaluate_checkpoint
from rmt.tasks.detect.module import DetectModule
from rmt.training.evaluator import evaluate
from rmt.training.results import best_of, closing_lines, facts, judged_rows, write
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: DetectModule, run: FinishedRun) -> dict[str, Any]:
    """See `Task.finish`. Last and averaged weights keep the scores of the last epoch, of the same images."""
    from rmt.tasks.detect.report import draw_report  # matplotlib takes a second to import

    data = module.data
    best = best_of(module, run.folder)
    evaluator = module.build_evaluator()
    network = TorchRuntime(best, run.device, run.precision)
    evaluate({"best": evaluator}, {"best": network}, data.val_loader(module.recipe), run.device)
    scores = evaluator.coco_metrics()
    metrics = facts(module, run, {**module.progress.val, "best": scores.percent()}, judged_on="val")
    metrics["head"] = module.recipe.head
    metrics["images"] = {"train": len(data.train), "val": len(data.val)}
    metrics["best_chosen_on"] = f"the {len(data.val):,} validation images themselves, which flatters it"
    metrics["unreadable"] = {"train and val": module.progress.bad_images | evaluator.unreadable}
    metrics["per_class"] = scores.per_class
    write(module, run, metrics, best)
    draw_report(module, run, metrics, scores, evaluator.detections)
    return metrics


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """The closing table: last and best apart, raw and averaged apart; then what was left out, and where things lie."""
    names = [name for name in ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50") if name in _last(metrics)]
    heads = "".join(f"{name.replace('_', ' ').replace('ap', 'AP'):>12}" for name in names)
    lines = ["", f"{'':24}{heads}"]
    for name, entry in judged_rows(metrics):
        lines.append(f"{name:24}" + "".join(f"{entry['val'][key]:>10.2f} %" for key in names))
    lines.append(f"best was chosen on {metrics['best_chosen_on']}")
    return lines + closing_lines(metrics, folder)


def _last(metrics: dict[str, Any]) -> dict[str, float]:
    return metrics["last"]["raw"]["val"]


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
