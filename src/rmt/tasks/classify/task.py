"""Image classification: what the trainer and `rmt evaluate` call, and the end of a run."""

from typing import Any

import numpy as np

from rmt.inference.runtime import TorchRuntime
from rmt.tasks.classify.build import build, resolve
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.evaluate import ClassifyEvaluator, describe, evaluate_checkpoint
from rmt.tasks.classify.module import ClassifyModule
from rmt.training.evaluator import evaluate
from rmt.training.results import best_of, closing_lines, facts, judged_rows, write
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: ClassifyModule, run: FinishedRun) -> dict[str, Any]:
    """Judges last, averaged and best weights in one pass over the test images; see `Task.finish`."""
    from rmt.tasks.classify.report import draw_report  # matplotlib takes a second to import

    data, folder = module.data, run.folder
    best = best_of(module, folder)
    networks = {
        name: TorchRuntime(network, run.device, run.precision)
        for name, network in {**module.networks(), "best": best}.items()
    }
    evaluators = {
        name: ClassifyEvaluator(len(data.classes), len(data.test), details=name == "best") for name in networks
    }
    evaluate(evaluators, networks, data.eval_loader(module.recipe, data.test), run.device)
    confusion, predictions = evaluators["best"].confusion_matrix(), evaluators["best"].predictions()
    metrics = facts(module, run, {name: e.compute() for name, e in evaluators.items()}, judged_on="test")
    metrics["images"] = {"train": len(data.train), "val": len(data.val), "test": len(data.test)}
    metrics["best_chosen_on"] = data.chosen_on
    metrics["test_is_val"] = data.val is data.test
    metrics["unreadable"] = {"train and val": module.progress.bad_images, "test": evaluators["best"].unreadable}
    metrics["recall_percent"] = _recall(data.classes, confusion)
    write(module, run, metrics, best)
    draw_report(folder, module, run.history, metrics, confusion, predictions, best)
    return metrics


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """The closing table: last and best apart, raw and averaged apart; then what was left out, and where things lie."""
    one_set = metrics.get("test_is_val", False)  # then the same images would stand there twice
    part = "val" if one_set else "test"
    heads = [*([] if one_set else ["val top-1"]), f"{part} top-1", f"{part} top-5"]
    lines = ["", " " * 24 + "".join(f"{head:>12}" for head in heads) + f"{f'{part} loss':>11}"]
    for name, entry in judged_rows(metrics):
        chosen = "" if one_set else f"{entry['val']['top1']:>10.2f} %"
        test = entry["test"]
        lines.append(f"{name:24}{chosen}{test['top1']:>10.2f} %{test['top5']:>10.2f} %{test['loss']:>11.4f}")
    rest = "there are no test images apart" if one_set else "the test images were read once, at the end"
    lines.append(f"best was chosen on {metrics['best_chosen_on']}; {rest}")
    return lines + closing_lines(metrics, folder)


def _recall(classes: tuple[str, ...], confusion: np.ndarray) -> dict[str, float]:
    """Per class, the percentage of its images that were recognised; confusion (K, K) has a row per true class."""
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
