"""Image classification: what the trainer and `rmt evaluate` call, and the end of a run."""

from typing import Any

import numpy as np

from rmt.inference.runtime import TorchRuntime
from rmt.tasks.classify.build import build, resolve
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.evaluate import ClassifyEvaluator, describe, evaluate_checkpoint
from rmt.tasks.classify.module import ClassifyModule
from rmt.training.evaluator import evaluate
from rmt.training.results import common_metrics, final_networks, summary_lines, write
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: ClassifyModule, run: FinishedRun) -> dict[str, Any]:
    """Evaluates last, averaged and best weights in one pass over the test images; see `Task.finish`."""
    from rmt.tasks.classify.report import draw_report  # matplotlib takes a second to import

    data, networks = module.data, final_networks(module, run)
    runtimes = {name: TorchRuntime(network, run.device, run.precision) for name, network in networks.items()}
    evaluators = {
        name: ClassifyEvaluator(len(data.classes), len(data.test), details=name == "best") for name in networks
    }
    evaluate(evaluators, runtimes, data.eval_loader(module.recipe, data.test), run.device)
    best = evaluators["best"]
    metrics = common_metrics(module, run, {name: e.compute() for name, e in evaluators.items()}, split="test")
    metrics["images"] = {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    metrics["best_chosen_on"] = data.chosen_on
    metrics["test_is_val"] = data.val is data.test
    metrics["unreadable"] = {"train and val": module.progress.bad_images, "test": best.unreadable}
    metrics["recall_percent"] = _recall(data.classes, best.confusion_matrix())
    write(module, run, metrics, networks["best"])
    draw_report(module, run, metrics, best.confusion_matrix(), best.predictions(), networks["best"])
    return metrics


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """See `Task.summary`."""
    one_set = metrics.get("test_is_val", False)  # then the same images would be in the table twice
    part = "val" if one_set else "test"
    columns = [(f"{part} top-1", "test", "top1"), (f"{part} top-5", "test", "top5"), (f"{part} loss", "test", "loss")]
    if not one_set:
        columns.insert(0, ("val top-1", "val", "top1"))
    note = "there are no separate test images" if one_set else "the test images were read once, at the end"
    return summary_lines(metrics, folder, columns, note=f"; {note}")


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
    bulky=("confusion",),
)
