"""`rmt evaluate CHECKPOINT DATA`: the metrics of a trained network on a set of images."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rmt.commands.libraries import import_quickly
from rmt.recipes.detect import Boxes
from rmt.recipes.recipe import Device, Precision
from rmt.terminal import say


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[DATA]")] = "",
    *,
    data: str = "",
    images: Path | None = None,
    annotations: Path | None = None,
    boxes: Boxes | None = None,
    split: Literal["train", "val", "test"] | None = None,
    max_images: int | None = None,
    per_class: bool = False,
    knn: bool = False,
    neighbours: int | None = None,
    batch_size: int | None = None,
    image_size: int | None = None,
    classes: str | None = None,
    inference: Literal["whole", "sliding"] | None = None,
    short_side: int | None = None,
    flip: bool = False,
    scales: tuple[float, ...] | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int = 2,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Evaluate a trained network on a set of images.

    `rmt evaluate CHECKPOINT --help` shows the options of its task alone.

    Args:
        checkpoint: A `.safetensors` file, an exported file, a run folder (meaning its best weights), or a network with
            weights in the package (rmt_micro).
        folder: The same as `--data DATA`.
        data: Data, as in training. Uses its validation split; without one the images that the run held out of the same
            data; otherwise all images.
        images: Detectors: the folder of the images that `annotations` lists, instead of `data`.
        annotations: Detectors: a COCO-format JSON to evaluate on, instead of `data`.
        boxes: Detectors: the form of the boxes in COCO-format files, as in training (`rmt train finetune-detect
            --help`); by default that of the run.
        split: The split of `data` to evaluate on, instead of the validation split.
        max_images: Images to evaluate at most, evenly spread over the split; by default all.
        per_class: Classifiers and detectors: also print precision, recall and F1, or AP, of each class. JSON always has
            them, and a classifier of up to 20 classes always prints them.
        knn: Classifiers: evaluate the embeddings (`rmt embed`) by k nearest neighbours: the class of an image is that
            of the most similar training images, by cosine similarity. The network need not know these classes.
        neighbours: Classifiers: with `knn`, the number of training images that vote (20).
        batch_size: Classifiers: images per step (64). Segmenters: windows per step (4).
        image_size: Classifiers: side in pixels of the images, instead of the checkpoint's. Detectors: the short side.
        classes: Segmenters: the class list, instead of the one in the data's folder.
        inference: Segmenters: whole images or sliding windows, instead of as in training.
        short_side: Segmenters: resize images to fit this short side, instead of the checkpoint's; 0 keeps their size.
        flip: Segmenters: average with the prediction for the mirrored image.
        scales: Segmenters: average the predictions at several sizes, e.g. 0.75 1 1.25.
        device: Where to compute.
        precision: Precision of the forward pass.
        workers: Processes that read images; 0 reads them in this process.
        output: Also write the whole result, including the confusion matrix, to this JSON file.
        json: Print JSON instead of text.
    """
    with import_quickly():
        from rmt.atomic import write_text
        from rmt.commands.options import options_for
        from rmt.errors import RMTError
        from rmt.output_folder import require_writable
        from rmt.tasks import task_of_checkpoint
        from rmt.training.evaluation_facts import evaluation_line

    _, task = task_of_checkpoint(checkpoint)
    require_writable(output)
    if folder and data:
        raise RMTError(f"{folder!r} after the checkpoint is the data already: leave out --data")
    data = data or folder
    if not data and annotations is None:
        raise RMTError("--data is missing: give the data after the checkpoint, as in training")
    if workers < 0:
        raise RMTError(f"--workers must be at least 0, not {workers}")
    given: dict[str, Any] = {"batch_size": batch_size, "image_size": image_size}
    given |= {"images": images, "annotations": annotations, "boxes": boxes, "split": split}
    given |= {"max_images": max_images, "knn": knn or None, "neighbours": neighbours}
    given |= {"classes": classes, "inference": inference, "short_side": short_side, "flip": flip or None}
    given |= {"scales": scales}
    own = options_for(task.evaluate, given=given, path=checkpoint)
    shown = options_for(task.describe, given={"per_class": per_class or None}, path=checkpoint)
    result = task.evaluate(checkpoint, data, device=device, precision=precision, workers=workers, **own)
    if output is not None:
        write_text(output, json_module.dumps(result, indent=2) + "\n")
    if json:
        print(json_module.dumps({key: value for key, value in result.items() if key not in task.bulky}))
        return
    for line in [*task.describe(result, **shown), evaluation_line(result["judged"], result["images"])]:
        say(line)
