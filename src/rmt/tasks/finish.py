"""The end of a run: the final evaluation, `metrics.json`, the scores in the weight files, and the report."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from rmt.data.loader import BatchLoader
from rmt.inference.drawing.fonts import plain_text
from rmt.inference.runtime import TorchRuntime
from rmt.model import read_metadata
from rmt.training.evaluator import Evaluator, evaluate
from rmt.training.module import TrainingModule
from rmt.training.results import common_metrics, final_networks, write
from rmt.training.task import FinishedRun


def finish(
    module: TrainingModule[Any, Any],
    run: FinishedRun,
    *,
    evaluators: Mapping[str, Evaluator] | None = None,
    loader: BatchLoader | None = None,
    split: Literal["val", "test"] = "val",
    more_metrics: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda evaluators: {},
    more_about_best: Callable[[Any], dict[str, Any]] = lambda evaluator: {},
    draw_report: Callable[[Any, FinishedRun, dict[str, Any], Any, Any], None] | None = None,
) -> dict[str, Any]:
    """Evaluates the final weights in one pass over the images; see `Task.finish`.

    Where the best weights are those of the last epoch, they are evaluated once.

    Args:
        module, run: the run, after training.
        evaluators: by the name of the weights ("raw", "ema", "best"): all of them unless given. Weights without an
            evaluator keep the scores of the last epoch. "best" must be among them.
        loader: the images to evaluate on, instead of the validation images.
        split: what these are.
        more_metrics: (evaluators) -> entries of `metrics.json` that this task adds or replaces.
        more_about_best: (evaluator of the best weights) -> entries that this task adds to those of the best weights, in
            `metrics.json` and in the weight file.
        draw_report: (module, run, metrics, evaluator, network) draws `report.png`; the evaluator and the network, a
            `TorchRuntime`, are those of the best weights.
    """
    networks = final_networks(module, run)
    evaluators = evaluators or {name: module.build_evaluator() for name in networks}
    best = read_metadata(run.folder.best)["metrics"]
    same = best["weights"] if best["epoch"] == module.progress.evaluations and best["weights"] in evaluators else ""
    evaluators = {name: evaluator for name, evaluator in evaluators.items() if name != same}
    runtimes = {name: TorchRuntime(networks[name], run.device, run.precision) for name in evaluators}
    evaluate(evaluators, runtimes, loader or module.data.val_loader(module.recipe), run.device)
    scores = module.progress.val | {name: evaluator.compute() for name, evaluator in evaluators.items()}
    if same:
        scores[same], evaluators[same] = scores["best"], evaluators["best"]
    metrics = common_metrics(module, run, scores, split=split, unreadable=evaluators["best"].unreadable)
    metrics["best"] |= more_about_best(evaluators["best"])
    metrics |= more_metrics(evaluators)
    write(module, run, metrics, networks["best"])
    if draw_report is not None:
        with plain_text():
            draw_report(module, run, metrics, evaluators["best"], runtimes["best"])
    return metrics
