"""Judging a checkpoint file on any set of images: what `rmt evaluate` does."""

from pathlib import Path
from typing import Any

from rmt.data.image_loader import ImageLoader
from rmt.data.sets import with_classes
from rmt.data.splits import open_evaluation_split
from rmt.data.transforms import eval_transform
from rmt.errors import RMTError
from rmt.inference.classify import load
from rmt.tasks.classify.evaluate import evaluate
from rmt.training.evaluated import judged, own_hold_out, unreadable_lines


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str,
    *,
    batch_size: int = 64,
    image_size: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
) -> dict[str, Any]:
    """Accuracy of a checkpoint on the validation split of `data`, else on what its run held out of it, else on all.

    The data's classes are matched with the checkpoint's by name. Returns loss, top1 and top5 (percent), images,
    confusion (K lists of K counts, a row per true class), unreadable (name -> reason), and judged (see
    `judged`). Raises RMTError.
    """
    if batch_size < 1 or workers < 0:
        raise RMTError(f"--batch-size must be at least 1 and --workers at least 0, not {batch_size} and {workers}")
    predictor = load(checkpoint, device=device, precision=precision, image_size=image_size)
    images, part = open_evaluation_split(data, own_hold_out(predictor.metadata, data=data))
    if predictor.classes:
        images = with_classes(images, predictor.classes)
    elif len(images.classes) != predictor.num_classes:
        raise RMTError(
            f"{checkpoint} has {predictor.num_classes} classes without names, the data have {len(images.classes)}"
        )
    loader = ImageLoader(
        images, eval_transform(**predictor.preprocessing), batch_size=batch_size, shuffle=False, workers=workers
    )
    seen = evaluate(
        {"model": predictor.model},
        loader,
        predictor.num_classes,
        device=predictor.device,
        precision=predictor.precision,
    )
    loader.close()
    scores = seen.results()["model"]
    return {
        **scores,
        "classes": list(images.classes),
        "confusion": seen.confusion("model").tolist(),
        "unreadable": seen.unread,
        "judged": judged(checkpoint, predictor.metadata, data, part),
    }


def describe(result: dict[str, Any]) -> list[str]:
    """The scores in a line, and the images that could not be read."""
    scores = f"top-1 {result['top1']:.2f} %   top-5 {result['top5']:.2f} %   loss {result['loss']:.4f}"
    return [f"{scores}   ({result['images']:,} images)", *unreadable_lines(result["unreadable"])]
