"""Judging segmenters: one pass over images, exact pixel counts, and what `rmt evaluate` prints of them."""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rmt.data.segmentation.dataset import open_segmentation_evaluation
from rmt.device import autocast
from rmt.errors import RMTError
from rmt.heads.segmentation.sliding import InferenceOptions, segment
from rmt.inference.segment import Mode, inference_from, load
from rmt.tasks.segment.data import whole_loader
from rmt.tasks.segment.metrics import Confusion, always, overall, per_class, table
from rmt.training.evaluated import judged, own_hold_out, unreadable_lines

BACKGROUND = "background"


@dataclass
class Evaluation:
    """The result of one pass: counts per network, unreadable images (name -> reason)."""

    counts: dict[str, np.ndarray]
    unread: dict[str, str] = field(default_factory=dict)


def evaluate(
    networks: Mapping[str, nn.Module],
    batches: Iterable[Mapping[str, Any]],
    num_classes: int,
    *,
    preprocessing: Mapping[str, Any],
    inference: InferenceOptions,
    device: torch.device,
    precision: str,
) -> Evaluation:
    """Runs every network over the same single pass of `batches` (lists, see `SegmentationEvalTransform`).

    All networks are on `device` and in eval mode afterwards. Raises RMTError when no image could be read.
    """
    scores = {name: Confusion(num_classes) for name in networks}
    unread: dict[str, str] = {}
    for network in networks.values():
        network.to(device).eval()
    for batch in batches:
        unread.update(batch["bad"])
        for image, mask in zip(batch["image"], batch["mask"], strict=True):
            for name, network in networks.items():
                found = segment(
                    network,
                    image,
                    (mask.shape[0], mask.shape[1]),
                    mean=preprocessing["mean"],
                    std=preprocessing["std"],
                    inference=inference,
                    autocast=functools.partial(autocast, precision, device),
                )
                scores[name].update(found, mask)
    counts = {name: score.counts.numpy() for name, score in scores.items()}
    if not any(count.any() for count in counts.values()):
        raise RMTError(f"none of the {len(unread)} images to judge on could be read")
    return Evaluation(counts, unread)


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str,
    *,
    classes: str = "",
    batch_size: int = 4,
    inference: Mode | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    short_side: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
) -> dict[str, Any]:
    """Scores a segmenter on the validation split of `data`, else on what its run held out of it, else on all.

    Classes are matched by name.

    Returns miou, macc, aacc (percent), pixels, images, the per-class table, the confusion matrix (a row per true
    class), unreadable images (name -> reason), the scores of naming the most frequent class always, and where there is
    a class `background` the mean IoU of the others. `batch_size` counts windows. Raises RMTError.
    """
    if workers < 0:
        raise RMTError(f"--workers must be at least 0, not {workers}")
    predictor = load(checkpoint, device=device, precision=precision, short_side=short_side)
    settings = inference_from(predictor.metadata, batch_size, inference, flip, scales)
    preprocessing = predictor.preprocessing
    images, part = open_segmentation_evaluation(
        data,
        classes,
        zero_is_ignored=preprocessing.get("zero_is_ignored", False),
        held=own_hold_out(predictor.metadata, data=data),
    )
    images = images.with_classes(predictor.classes)
    loader = whole_loader(images, preprocessing["long_side"], preprocessing["short_side"], workers=workers)
    seen = evaluate(
        {"model": predictor.model},
        loader,
        len(predictor.classes),
        preprocessing=preprocessing,
        inference=settings,
        device=predictor.device,
        precision=predictor.precision,
    )
    loader.close()
    result = results(seen.counts["model"], predictor.classes)
    return {
        **result,
        "images": len(images) - len(seen.unread),
        "skipped_files": images.skipped,
        "unreadable": seen.unread,
        "judged": judged(checkpoint, predictor.metadata, data, part),
    }


def results(counts: np.ndarray, names: tuple[str, ...]) -> dict[str, Any]:
    """Everything that the counts say, as JSON values; see `evaluate_checkpoint`."""
    frequent = int(counts.sum(1).argmax())
    guess = overall(always(counts, frequent))
    found: dict[str, Any] = {**overall(counts), "most_frequent": {"class": names[frequent], **guess}}
    if BACKGROUND in names and len(names) > 1:
        ground = names.index(BACKGROUND)
        found["foreground_miou"] = foreground(counts, ground)
        others = np.delete(counts.sum(1), ground)
        label = int(others.argmax()) + (int(others.argmax()) >= ground)
        found["most_frequent"]["foreground_class"] = names[label]
        found["most_frequent"]["foreground_miou"] = foreground(always(counts, label), ground)
    return {**found, "per_class": table(counts, names), "confusion": counts.tolist()}


def foreground(counts: np.ndarray, background: int) -> float:
    """Mean IoU in percent of the classes that occur, the background left out."""
    iou = np.delete(per_class(counts)[0], background)
    known = iou[~np.isnan(iou)]
    return float(known.mean()) if len(known) else 0.0


def describe(result: dict[str, Any]) -> list[str]:
    """The scores in a line, the guess beside them, and a line per class."""
    guess = result["most_frequent"]
    lines = [
        f"mIoU {result['miou']:.2f} %   mean accuracy {result['macc']:.2f} %   pixel accuracy {result['aacc']:.2f} %"
        f"   ({result['images']:,} images, {result['pixels']:,} pixels)",
        f"always {guess['class']}: mIoU {guess['miou']:.2f} %, pixel accuracy {guess['aacc']:.2f} %",
    ]
    if "foreground_miou" in result:
        lines.append(
            f"foreground mIoU {result['foreground_miou']:.2f} %"
            f"   (always {guess['foreground_class']}: {guess['foreground_miou']:.2f} %)"
        )
    width = max(len(row["class"]) for row in result["per_class"])
    lines.append(f"{'class':<{width}} {'IoU':>8} {'accuracy':>10} {'pixels':>13}")
    for row in result["per_class"]:
        iou, accuracy = (f"{row[key]:.2f} %" if row[key] is not None else "–" for key in ("iou", "accuracy"))
        lines.append(f"{row['class']:<{width}} {iou:>8} {accuracy:>10} {row['pixels']:>13,}")
    for reason, count in result["skipped_files"].items():
        lines.append(f"passed over: {count} × {reason}")
    return lines + unreadable_lines(result["unreadable"])
