"""The results of a finished run: `metrics.json`, the scores in the weight files, the closing lines."""

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import nn

from rmt.atomic import write_text
from rmt.data.sets import skip_lines
from rmt.model import read_metadata
from rmt.terminal import plural, short
from rmt.training.batch import effective_batch, world_size
from rmt.training.logging.display import duration
from rmt.training.module import TrainingModule
from rmt.training.published import compare_with_published, published_lines, published_rows
from rmt.training.run_folder import RunFolder
from rmt.training.task import FinishedRun

_MOST_LETTERS = 60  # of a cell of a table


def final_networks(module: TrainingModule[Any, Any], run: FinishedRun) -> dict[str, nn.Module]:
    """Returns `networks()` with the weights of the last epoch, and "best" with those of `best.safetensors`."""
    best = deepcopy(module.model)
    best.load_state_dict(load_file(run.folder.best))
    return module.networks() | {"best": best}


def common_metrics(
    module: TrainingModule[Any, Any],
    run: FinishedRun,
    results: dict[str, dict[str, float]],
    *,
    split: Literal["val", "test"],
    unreadable: dict[str, str],
) -> dict[str, Any]:
    """Returns the part of `metrics.json` that all tasks have.

    Args:
        module: the run's module, after training.
        run: its folder, history and machine.
        results: the final scores of each of `networks()` and of "best".
        split: what they were computed on: the validation images again, or the test images.
        unreadable: name and reason of the images of `split` that could not be read.
    """
    progress, recipe, data = module.progress, module.recipe, module.data
    epochs = progress.evaluations
    images = epochs * module.updates_per_epoch * effective_batch(recipe)
    best_by, bad = module.metric_columns.best, progress.bad_images
    parts = {"train and val": bad | unreadable} if split == "val" else {"train and val": bad, split: unreadable}
    evaluated = getattr(data, split)
    held_out = 0 if evaluated is data.val else len(data.val)  # of the training images, with --selection
    published = compare_with_published(
        recipe, classes=len(data.classes), train=len(data.train) + held_out, val=len(evaluated)
    )
    return ({"published": published} if published else {}) | {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "model": recipe.model,
        "parameters": sum(p.numel() for p in module.model.parameters()),
        "classes": len(data.classes),
        "metric": best_by,
        "effective_batch": effective_batch(recipe),
        "peak_lr": module.lr,
        "last": {
            "epoch": epochs,
            **{kind: {"val": progress.val[kind], split: results[kind]} for kind in module.networks()},
        },
        "best": {**read_metadata(run.folder.best)["metrics"], split: results["best"]},
        "best_val": {kind: {best_by: b.score, "epoch": b.epoch} for kind, b in progress.best.items() if b.epoch},
        "highest_val": {
            kind: {best_by: b.highest, "epoch": b.highest_epoch} for kind, b in progress.best.items() if b.epoch
        },
        "images": {"train": len(data.train), "val": len(data.val)},
        "best_chosen_on": f"the validation images themselves ({len(data.val):,}), so its score there is optimistic",
        "unreadable": parts,
        "skipped_files": data.skipped,
        "skipped_batches": progress.skipped_batches,
        "training_seconds": round(progress.seconds, 1),
        "images_per_s": round(images / max(progress.seconds, 1e-9), 1),
        "machine": {
            "device": str(run.device),
            "devices": world_size(recipe),
            "precision": run.precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }


def write(module: TrainingModule[Any, Any], run: FinishedRun, metrics: dict[str, Any], best: nn.Module) -> None:
    """Writes `metrics.json`, and the weight files once more, now with their final scores."""
    last = metrics["last"]
    for kind, network in module.networks().items():
        scores = {"epoch": last["epoch"], "weights": kind, **last[kind]}
        run.files.save("last" if kind == "raw" else f"last-{kind}", network.state_dict(), scores)
    run.files.save("best", best.state_dict(), metrics["best"])
    write_text(run.folder.metrics_json, json.dumps(metrics, indent=2) + "\n")


def final_rows(metrics: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Returns name and scores of the final weights: of the last epoch raw and EMA, and of the best epoch."""
    last, best = metrics["last"], metrics["best"]
    rows = [(f"last epoch ({last['epoch']}), raw", last["raw"])]
    if "ema" in last:
        rows.append((f"last epoch ({last['epoch']}), EMA", last["ema"]))
    rows.append((f"best epoch ({best['epoch']}), {'EMA' if best['weights'] == 'ema' else 'raw'}", best))
    return rows


def text_table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Returns a line for each row of cells: the first column left-aligned, the others right-aligned."""
    rows = [tuple(short(cell, _MOST_LETTERS) for cell in cells) for cells in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{name:{widths[0]}}" + "".join(f"{cell:>{width + 3}}" for cell, width in zip(cells, widths[1:], strict=True))
        for name, *cells in rows
    ]


def summary_lines(
    metrics: dict[str, Any],
    folder: RunFolder,
    columns: Sequence[tuple[str, str, str]],
    *,
    more_rows: Sequence[tuple[str, ...]] = (),
    more_lines: Sequence[str] = (),
    note: str = "",
) -> list[str]:
    """Returns the closing lines of a run: a table of final and published scores, what was skipped, where the files are.

    Args:
        metrics: the content of `metrics.json`.
        folder: the run's folder.
        columns: heading, set of images ("val" or "test") and name of each score; all but "loss" are percentages.
        more_rows: rows of cells to add to the table.
        more_lines: lines after the one that says what `best` was chosen on.
        note: added to the line that says what `best` was chosen on.
    """
    rows = [("", *(heading for heading, _, _ in columns))]
    for name, entry in final_rows(metrics):
        scores = [(key, entry[split][key]) for _, split, key in columns]
        rows.append((name, *(f"{score:.4f}" if key == "loss" else f"{score:.2f} %" for key, score in scores)))
    rows += [*more_rows, *published_rows(metrics, columns)]
    chosen = f"best was chosen on {metrics['best_chosen_on']}{note}"
    highest = metrics.get("highest_val", {}).get(metrics["best"]["weights"], metrics["best"])  # not in earlier files
    if highest["epoch"] != metrics["best"]["epoch"]:
        chosen += (
            f"; the highest score there was {highest[metrics['metric']]:.2f} %, in epoch {highest['epoch']}, which is "
            "within the error of so few images"
        )
    lines = [*published_lines(metrics), chosen, *more_lines, *closing_lines(metrics, folder)]
    return ["", *text_table(rows), *lines]


def closing_lines(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """What was skipped (`unreadable`, `skipped_files`), the speed, and the location of the files."""
    lines = [
        f"{plural(len(bad), 'unreadable image')} skipped in {where}: {_some(bad)}"
        for where, bad in metrics["unreadable"].items()
        if bad
    ]
    if skipped := metrics.get("skipped_batches"):
        lines.append(f"{plural(skipped, 'batch')} skipped for a loss that was not finite")
    lines += skip_lines(metrics["skipped_files"])
    pace = f"{duration(metrics['training_seconds'])} of training, {metrics['images_per_s']:,.0f} images/s"
    return [*lines, f"{pace}; everything is in {folder.path} (see {folder.report.name})"]


def _some(bad: dict[str, str], most: int = 3) -> str:
    """The first few names with their reasons."""
    listed = "; ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:most])
    return listed + (f"; and {len(bad) - most} more (metrics.json)" if len(bad) > most else "")
