"""After the last epoch: the test images are read once, and the run's results written, drawn and printed."""

import json
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from rich.console import Console

from rmt.model import load_checkpoint, read_metadata
from rmt.tasks.classify import ClassifyTask
from rmt.tasks.classify_data import ClassifyData
from rmt.tasks.evaluate import evaluate
from rmt.tasks.weights import WeightFiles
from rmt.training.atomic import write_text
from rmt.training.display import duration
from rmt.training.history import History
from rmt.training.optimizer import effective_batch
from rmt.training.run_folder import RunFolder


def finish(
    task: ClassifyTask,
    data: ClassifyData,
    folder: RunFolder,
    history: History,
    files: WeightFiles,
    *,
    device: torch.device,
    precision: str,
    console: Console,
) -> dict[str, Any]:
    """Judges last, averaged and best weights in one pass over the test images; writes metrics.json and report.png.

    Returns the content of metrics.json.
    """
    from rmt.tasks.pictures import draw_report  # matplotlib takes a second to import

    best = deepcopy(task.model)
    load_checkpoint(best, folder.best)
    networks = {**task.networks(), "best": best}
    loader = data.eval_loader(data.test)
    seen = evaluate(networks, loader, len(data.classes), device=device, precision=precision)
    loader.close()
    results, confusion = seen.results(), seen.confusion("best")
    chosen = read_metadata(folder.best)["metrics"]

    progress, recipe = task.progress, task.recipe
    epochs = max(int(row["epoch"]) for row in history.rows if row["kind"] == "epoch")
    metrics: dict[str, Any] = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "model": recipe.model,
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "classes": len(data.classes),
        "images": {"train": len(data.train), "val": len(data.judge), "test": len(data.test)},
        "best_chosen_on": data.chosen_on,
        "effective_batch": effective_batch(recipe),
        "peak_lr": task.lr,
        "last": {
            "epoch": epochs,
            **{kind: {"val": progress.val[kind], "test": results[kind]} for kind in task.networks()},
        },
        "best": {**chosen, "test": results["best"]},
        "best_val": {kind: {"top1": b.top1, "epoch": b.epoch} for kind, b in progress.best.items() if b.epoch},
        "training_seconds": round(progress.seconds, 1),
        "images_per_s": round(epochs * data.batches_per_epoch * data.batch_size / max(progress.seconds, 1e-9), 1),
        "unreadable": {"train and val": progress.bad_images, "test": seen.unread},
        "skipped_files": dict(data.train.skipped) | dict(data.test.skipped),
        "recall_percent": _recall(data.classes, confusion),
        "machine": {
            "device": str(device),
            "precision": precision,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
    }
    for kind, network in task.networks().items():
        files.save("last" if kind == "raw" else f"last-{kind}", network.state_dict(), _of(metrics["last"], kind))
    files.save("best", best.state_dict(), metrics["best"])
    write_text(folder.metrics_json, json.dumps(metrics, indent=2) + "\n")
    draw_report(folder, data, history, metrics, confusion, seen.answers, best)
    for line in summary(metrics, folder):
        console.print(line, markup=False)
    return metrics


def summary(metrics: dict[str, Any], folder: RunFolder) -> list[str]:
    """The closing table: last and best apart, raw and averaged apart; then what was left out, and where things lie."""
    last, best = metrics["last"], metrics["best"]
    rows = [(f"last epoch ({last['epoch']}), raw", last["raw"])]
    if "ema" in last:
        rows.append((f"last epoch ({last['epoch']}), EMA", last["ema"]))
    rows.append((f"best epoch ({best['epoch']}), {'EMA' if best['weights'] == 'ema' else 'raw'}", best))
    lines = ["", f"{'':24}{'val top-1':>12}{'test top-1':>12}{'test top-5':>12}{'test loss':>11}"]
    for name, entry in rows:
        val, test = entry["val"], entry["test"]
        lines.append(
            f"{name:24}{val['top1']:>10.2f} %{test['top1']:>10.2f} %{test['top5']:>10.2f} %{test['loss']:>11.4f}"
        )
    lines.append(f"best was chosen on {metrics['best_chosen_on']}; the test images were read once, at the end")
    for where, bad in metrics["unreadable"].items():
        if bad:
            lines.append(f"{len(bad)} unreadable images passed over in {where}: {_some(bad)}")
    if metrics["skipped_files"]:
        said = ", ".join(f"{count} {reason}" for reason, count in metrics["skipped_files"].items())
        lines.append(f"files passed over: {said}")
    pace = f"{duration(metrics['training_seconds'])} of training, {metrics['images_per_s']:,.0f} images/s"
    lines.append(f"{pace}; everything is in {folder.path} (see {folder.report.name})")
    return lines


def _recall(classes: tuple[str, ...], confusion: np.ndarray) -> dict[str, float]:
    """Per class, the percentage of its images that were recognised; confusion (K, K) has a row per true class."""
    shares = 100 * confusion.diagonal() / confusion.sum(1).clip(min=1)
    return {name: round(float(share), 2) for name, share in zip(classes, shares, strict=True)}


def _of(last: dict[str, Any], kind: str) -> dict[str, Any]:
    return {"epoch": last["epoch"], "weights": kind, **last[kind]}


def _some(bad: dict[str, str], most: int = 3) -> str:
    """The first few names with their reasons."""
    listed = "; ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:most])
    return listed + (f"; and {len(bad) - most} more (metrics.json)" if len(bad) > most else "")
