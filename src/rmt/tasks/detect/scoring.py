"""Judging a detector's file on a COCO-format set: what `rmt evaluate` does."""

from pathlib import Path
from typing import Any

import torch

from rmt.data.detection.coco import CocoSet, find_split, open_coco
from rmt.data.loader import BatchLoader
from rmt.data.sets import Part
from rmt.device import autocast
from rmt.errors import RMTError
from rmt.heads.detection import MaskRCNN, RetinaNet
from rmt.inference.detect import load
from rmt.tasks.detect.data import eval_loader
from rmt.tasks.detect.metrics import Gathering, table
from rmt.training.evaluated import judged, own_hold_out, unreadable_lines


@torch.inference_mode()
def evaluate(
    model: RetinaNet | MaskRCNN, images: CocoSet, loader: BatchLoader, *, device: torch.device, precision: str
) -> tuple[Gathering, dict[str, str]]:
    """What the detector finds in the loader's images, and those that could not be read (name -> reason)."""
    gathering, unread = Gathering(images), {}
    model.to(device).eval()
    for batch in loader:
        unread.update(batch["bad"])
        places = batch["index"].numpy()
        if not len(places):  # every image of the batch was unreadable
            continue
        sizes = [tuple(size) for size in images.sizes[places].tolist()]
        with autocast(precision, device):
            answers = model([image.to(device) for image in batch["image"]], sizes=sizes)
        gathering.add(batch["index"], answers)
    return gathering, unread


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str,
    *,
    images: Path | None = None,
    annotations: Path | None = None,
    image_size: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
) -> dict[str, Any]:
    """COCO's figures of a checkpoint: on the validation split of the COCO folder `data`, or on `annotations`.

    Of annotations that its run divided, the held-out images are scored. The data's classes are matched with the
    checkpoint's by name. Returns figures (kind -> name -> 0…1, see `FIGURES`), per_class (kind -> class -> AP), images,
    notes, unreadable (name -> reason), judged (see `judged`), and results, COCO's results format. Raises RMTError.
    """
    if bool(images) != bool(annotations) or bool(data) == bool(annotations):
        raise RMTError("give --data COCO_FOLDER, or --images FOLDER with --annotations FILE.json")
    predictor = load(checkpoint, device=device, precision=precision, image_size=image_size)
    folder, file = (images, annotations) if images and annotations else find_split(Path(data), "val")
    found = open_coco(folder, file, with_masks=predictor.masks)
    part: Part = "val" if data else "listed"
    if held := own_hold_out(predictor.metadata, images=folder, annotations=file):
        divided = not predictor.metadata["recipe"].get("val_annotations")
        found, part = (found.hold_out(*held)[1], "held out") if divided else (found, "train")
    found = found.with_classes(predictor.classes)
    loader = eval_loader(found, predictor.preprocessing, workers)
    gathering, unread = evaluate(predictor.model, found, loader, device=predictor.device, precision=predictor.precision)
    loader.close()
    scores = gathering.score()
    return {
        "images": len(gathering.found),
        "figures": scores.figures,
        "per_class": scores.per_class,
        "notes": found.notes,
        "unreadable": unread,
        "judged": judged(checkpoint, predictor.metadata, data or file, part),
        "results": gathering.results(),
    }


def describe(result: dict[str, Any], *, per_class: bool = False) -> list[str]:
    """COCO's table, with `per_class` AP per class, too, and what was passed over."""
    lines = [*table(result["figures"], result["per_class"] if per_class else None), f"({result['images']:,} images)"]
    return [*lines, *result["notes"], *unreadable_lines(result["unreadable"])]
