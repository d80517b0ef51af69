"""After the last iteration: last, averaged and best weights are judged once more, class by class, and reported."""

from typing import Any

from rmt.tasks.segment.module import SegmentModule
from rmt.tasks.segment.scoring import evaluate, results
from rmt.training.results import best_of, closing_lines, facts, judged_rows, write
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun

_SHORT = ("miou", "macc", "aacc", "pixels")


def finish(module: SegmentModule, run: FinishedRun) -> dict[str, Any]:
    """Judges all weights in one pass over the validation images; see `Task.finish`."""
    from rmt.tasks.segment.report import draw_report  # matplotlib takes a second to import

    data = module.data
    best = best_of(module, run.folder)
    loader = data.val_loader()
    seen = evaluate(
        {**module.networks(), "best": best},
        loader,
        len(data.classes),
        preprocessing=data.preprocessing,
        inference=module.inference,
        device=run.device,
        precision=run.precision,
    )
    loader.close()
    details = {name: results(counts, data.classes) for name, counts in seen.counts.items()}
    scores = {name: {key: of[key] for key in _SHORT} for name, of in details.items()}
    metrics = facts(module, run, scores, judged_on="val")
    metrics["images"] = {"train": len(data.train), "val": len(data.val)}
    metrics["best_chosen_on"] = f"the {len(data.val):,} validation images themselves, which flatters it"
    metrics["iterations"] = module.recipe.iterations
    metrics["unreadable"] = {"train and val": module.progress.bad_images}
    metrics["details"] = {name: {k: v for k, v in of.items() if k != "confusion"} for name, of in details.items()}
    write(module, run, metrics, best)
    draw_report(module, run, metrics, best)
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
