"""Semantic segmentation: what the trainer and `rmt evaluate` call, and the end of a run."""

from typing import Any

from rmt.inference.runtime import TorchRuntime
from rmt.tasks.segment.build import build, resolve
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.evaluate import describe, details, evaluate_checkpoint
from rmt.tasks.segment.module import SegmentModule
from rmt.training.evaluator import evaluate
from rmt.training.results import common_metrics, final_networks, summary_lines, write
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: SegmentModule, run: FinishedRun) -> dict[str, Any]:
    """Evaluates last, averaged and best weights in one pass over the validation images; see `Task.finish`."""
    from rmt.tasks.segment.report import draw_report  # matplotlib takes a second to import

    data, networks = module.data, final_networks(module, run)
    runtimes = {name: TorchRuntime(network, run.device, run.precision) for name, network in networks.items()}
    evaluators = {name: module.build_evaluator() for name in networks}
    evaluate(evaluators, runtimes, data.val_loader(module.recipe), run.device)
    found = {name: details(evaluator.counts(), data.classes) for name, evaluator in evaluators.items()}
    metrics = common_metrics(module, run, {name: e.compute() for name, e in evaluators.items()}, split="val")
    metrics["images"] = {"train": len(data.train), "val": len(data.val)}
    metrics["best_chosen_on"] = f"the {len(data.val):,} validation images themselves, which flatters it"
    metrics["iterations"] = module.recipe.iterations
    metrics["unreadable"] = {"train and val": module.progress.bad_images}
    metrics["details"] = {name: {k: v for k, v in of.items() if k != "confusion"} for name, of in found.items()}
    write(module, run, metrics, networks["best"])
    draw_report(module, run, metrics, runtimes["best"])
    return metrics


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """See `Task.summary`."""
    columns = [("mIoU", "val", "miou"), ("mean acc.", "val", "macc"), ("pixel acc.", "val", "aacc")]
    constant = metrics["details"]["best"]["most_frequent"]
    row = (f"always {constant['class']}", *(f"{constant[key]:.2f} %" for _, _, key in columns))
    return summary_lines(metrics, folder, columns, more_rows=[row])


TASK = Task(
    open_data=SegmentData.open,
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    evaluate=evaluate_checkpoint,
    describe=describe,
    bulky=("confusion",),
)
