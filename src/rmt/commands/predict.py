"""`rmt predict CHECKPOINT IMAGE…`: what a trained network sees on some images."""

import json as json_module
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rmt.recipes.recipe import Device, Precision


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    top_k: int | None = None,
    image_size: int | None = None,
    output: Path | None = None,
    threshold: float | None = None,
    inference: Literal["whole", "sliding"] | None = None,
    short_side: int | None = None,
    flip: bool = False,
    scales: tuple[float, ...] | None = None,
    batch_size: int | None = None,
    device: Device = "auto",
    precision: Precision = "auto",
    json: bool = False,
) -> int:
    """Say what is on some images.

    An image that cannot be read is named on stderr, the others are answered all the same; the exit code is then 1.

    Args:
        checkpoint: A `.safetensors` file, or a run folder (meaning its best weights).
        images: Image files.
        top_k: Classifiers: how many classes to name per image, likeliest first (5).
        image_size: Classifiers: side in pixels the images are brought to, instead of the checkpoint's. Detectors: the
            short side, the longest one in proportion.
        output: The folder for pictures, new or empty; without it predictions, or predictions-2 and so on where that
            exists. Detectors: boxes and masks, and predictions.json. Segmenters: IMAGE-overlay.png with a legend, and
            IMAGE-classes.png, whose values are the class indices. Images of one name: IMAGE-2 and so on.
        threshold: Detectors: the least score of what text and pictures show (0.5).
        inference: Segmenters: look at whole images or by sliding windows, instead of as in training.
        short_side: Segmenters: fit images to this short side, instead of the checkpoint's; 0 keeps their size.
        flip: Segmenters: average with the answer to the mirrored image.
        scales: Segmenters: average the answers at several sizes, e.g. 0.75 1 1.25.
        batch_size: Segmenters: windows per step (4).
        device: Where to compute.
        precision: Arithmetic of the forward pass.
        json: Print one JSON object per image instead of text.
    """
    from rmt.commands.options import not_an_option, options_for
    from rmt.data.images import BadImage
    from rmt.errors import RMTError
    from rmt.inference.predictions import Answer, PredictionFolder
    from rmt.tasks import task_of_checkpoint

    if not images:
        raise RMTError("name at least one image: rmt predict CHECKPOINT IMAGE…")
    _, task = task_of_checkpoint(checkpoint)
    loading = options_for(task.load, {"image_size": image_size, "short_side": short_side}, checkpoint)
    given: dict[str, Any] = {"top_k": top_k, "threshold": threshold, "inference": inference}
    given |= {"flip": flip or None, "scales": scales, "batch_size": batch_size}
    own = options_for(task.answer, given, checkpoint)
    if output is not None and not task.draws:
        raise not_an_option(["output"], checkpoint)
    folder = PredictionFolder(output, images) if task.draws else None
    network = task.load(checkpoint, device=device, precision=precision, **loading)
    answers: list[tuple[Path, Answer]] = []
    try:
        for number, path in enumerate(images):
            try:
                answer = task.answer(network, path, **own)
            except BadImage as error:
                print(f"rmt: {error}", file=sys.stderr)
                continue
            files = folder.write(number, answer.pictures) if folder else {}
            answers.append((path, replace(answer, pictures={})))  # on the disk now; all at once would fill the memory
            if json:
                print(json_module.dumps({"image": str(path), **answer.values, **files}))
            else:
                print(f"{path}: {answer.text}" + (f"; see {', '.join(files.values())}" if files else ""))
    finally:  # stopped half-way, it covers what was answered
        if folder and answers and task.document:
            folder.write_document(task.document(network, answers))
    return 0 if len(answers) == len(images) else 1
