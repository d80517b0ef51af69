"""Whole images or sliding windows: the better one of a finished run, measured on its validation images."""

from dataclasses import replace

from rmt.inference.runtime import TorchRuntime
from rmt.tasks.segment.module import SegmentModule
from rmt.training.evaluator import evaluate
from rmt.training.results import final_networks
from rmt.training.task import FinishedRun

WAYS = {"sliding": "sliding windows", "whole": "whole images"}


def choose_inference(module: SegmentModule, run: FinishedRun) -> dict[str, float]:
    """Evaluates the best weights in the way that the run has not used, and sets the module to the better of both ways.

    The way is set in `module.preprocessing`, too, which the weight files get when they are written once more.

    Returns the scores by way, "sliding" and "whole": the metric that the best weights were selected by, in percent.
    Nothing if they are equal, as for images that are no larger than a window.
    """
    used, other = ("sliding", "whole") if module.inference.sliding else ("whole", "sliding")
    scores = {used: module.progress.best_of_all()[1].score}
    module.inference = replace(module.inference, sliding=other == "sliding")
    evaluator = module.build_evaluator()
    network = TorchRuntime(final_networks(module, run)["best"], run.device, run.precision)
    evaluate({"best": evaluator}, {"best": network}, module.data.val_loader(module.recipe), run.device)
    scores[other] = module.metric_columns.of(evaluator.compute())
    best = other if scores[other] > scores[used] else used
    module.inference = replace(module.inference, sliding=best == "sliding")
    module.preprocessing["inference"] = best
    return scores if scores[used] != scores[other] else {}
