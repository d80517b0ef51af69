"""Semantic segmentation: what the trainer and `rmt evaluate` call, and the end of a run."""

from typing import Any

from rmt.inference.runtime import TorchRuntime
from rmt.tasks.segment.build import build, resolve
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.evaluate import describe, details, evaluate_checkpoint
from rmt.tasks.segment.module import SegmentModule
from rmt.training.evaluator import evaluate
from rmt.training.results import best_of, closing_lines, facts, judged_rows, write
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun, Task


def finish(module: SegmentModule, run: FinishedRun) -> dict[str, Any]:
    """Judges all weights in one pass over the validation images; see `Task.finish`."""
    from rmt.tasks.segment.report import draw_report  # matplotlib takes a second to import

    data = module.data
    best = best_of(module, run.folder)
    networks = {
        name: TorchRuntime(network, run.device, run.precision)
        for name, network in {**module.networks(), "best": best}.items()
    }
    evaluators = {name: module.build_evaluator() for name in networks}
    evaluate(evaluators, networks, data.val_loader(module.recipe), run.device)
    found = {name: details(evaluator.counts(), data.classes) for name, evaluator in evaluators.items()}
    metrics = facts(module, run, {name: e.compute() for name, e in evaluators.items()}, judged_on="val")
    metrics["images"] = {"train": len(data.train), "val": len(data.val)}
    metrics["best_chosen_on"] = f"the {len(data.val):,} validation images themselves, which flatters it"
    metrics["iterations"] = module.recipe.iterations
    metrics["unreadable"] = {"train and val": module.progress.bad_images}
    metrics["details"] = {name: {k: v for k, v in of.items() if k != "confusion"} for name, of in found.items()}
    write(module, run, metrics, best)
    draw_report(module, run, metrics, networks["best"])
    return metrics


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """The closing table: last and best apart, raw and averaged apart, the guess below; then where things lie."""
    lines = ["", f"{'':28}{'mIoU':>10}{'mean acc.':>12}{'pixel acc.':>12}"]
    for name, entry in judged_rows(metrics):
        scores = entry["val"]
        lines.append(f"{name:28}{scores['miou']:>8.2f} %{scores['macc']:>10.2f} %{scores['aacc']:>10.2f} %")
    guess = metrics["details"]["best"]["most_frequent"]
    naming = f"always {guess['class']}"
    lines.append(f"{naming:28}{guess['miou']:>8.2f} %{guess['macc']:>10.2f} %{guess['aacc']:>10.2f} %")
    lines.append(f"best was chosen on {metrics['best_chosen_on']}")
    return lines + closing_lines(metrics, folder)


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
