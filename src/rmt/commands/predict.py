"""`rmt predict CHECKPOINT IMAGE…`: the predictions of a trained network for some images."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rmt.commands.libraries import import_quickly
from rmt.recipes.recipe import Device, Precision
from rmt.terminal import complain, say


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    top_k: int | None = None,
    image_size: int | None = None,
    output: Path | None = None,
    pictures: bool = True,
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
    """Predict what some images show.

    `rmt predict CHECKPOINT --help` shows the options of its task alone.

    An image that cannot be read is named on stderr and skipped; the exit code is then 1.

    Args:
        checkpoint: A `.safetensors` file, an exported file, a run folder (meaning its best weights), or a network with
            weights in the package. Without one (`rmt predict photo.jpg`) it is rmt_micro, for the classes of CIFAR-10.
        images: Image files.
        top_k: Classifiers: how many classes to print per image, likeliest first (5).
        image_size: Classifiers: side of the images in pixels, instead of the checkpoint's. Detectors: the
            short side, the longest one in proportion.
        output: Detectors and segmenters: the folder for pictures, new or empty; without it predictions, or
            predictions-2 and so on where that exists. Images of one name become IMAGE, IMAGE-2 and so on. Detectors:
            boxes and masks, and predictions.json. Segmenters: IMAGE-overlay.png with a legend, and IMAGE-classes.png,
            whose values are the class indices.
        pictures: Detectors and segmenters: draw and write pictures. Without them a detector writes predictions.json
            only, and only where `output` is given.
        threshold: Detectors: the lowest score of objects in text and pictures, instead of the one that gave the best F1
            on the validation images of the run (0.5 if the file does not contain one).
        inference: Segmenters: whole images or sliding windows, instead of as in training.
        short_side: Segmenters: resize images to fit this short side, instead of the checkpoint's; 0 keeps their size.
        flip: Segmenters: average with the prediction for the mirrored image.
        scales: Segmenters: average the predictions at several sizes, e.g. 0.75 1 1.25.
        batch_size: Segmenters: windows per step (4).
        device: Where to compute.
        precision: Precision of the forward pass.
        json: Print one JSON object per image instead of text.
    """
    with import_quickly():
        from rmt.commands.options import not_an_option, options_for
        from rmt.data.images import EXTENSIONS, BadImage
        from rmt.errors import RMTError
        from rmt.inference import predictor_class
        from rmt.inference.files import predict_files
        from rmt.inference.results import ImageResult, PredictionFolder
        from rmt.model import read_metadata
        from rmt.model.shipped import DEFAULT

    if checkpoint.suffix.lower() in EXTENSIONS and not checkpoint.is_dir():
        checkpoint, images = Path(DEFAULT), (checkpoint, *images)
        classes = ", ".join(read_metadata(checkpoint)["classes"])
        complain(f"no checkpoint given: {DEFAULT} is used, which knows {classes}")
    if not images:
        raise RMTError("name at least one image: rmt predict CHECKPOINT IMAGE…")
    kind = predictor_class(read_metadata(checkpoint)["task"])
    sizes = {"image_size": image_size, "short_side": short_side}
    load_options = options_for(kind.load, given=sizes, path=checkpoint)
    given: dict[str, Any] = {"top_k": top_k, "threshold": threshold, "inference": inference}
    given |= {"flip": flip or None, "scales": scales, "batch_size": batch_size}
    result_options = options_for(kind.run, kind.show, given=given, path=checkpoint)
    if output is not None and not kind.has_pictures:
        raise not_an_option(["output"], checkpoint)
    if not pictures and not kind.has_pictures:
        raise not_an_option(["no_pictures"], checkpoint)
    folder = PredictionFolder(output, images) if kind.has_pictures and (pictures or output) else None
    predictor = kind.load(checkpoint, device=device, precision=precision, **load_options)

    def write(number: int, result: ImageResult) -> dict[str, str]:
        return folder.write(number, result.pictures) if folder and pictures else {}

    results: list[tuple[Path, ImageResult]] = []
    try:
        for number, result, files in predict_files(predictor, images, write, **result_options):
            path = images[number]
            if isinstance(result, BadImage):
                complain(f"rmt: {result}")
                continue
            # Without what draws them: the photographs and pictures of all images would fill the memory.
            results.append((path, ImageResult(result.text, result.values)))
            if json:
                print(json_module.dumps({"image": str(path), **result.values, **files}))
            else:
                say(f"{path}: {result.text}" + (f"; see {', '.join(files.values())}" if files else ""))
    finally:  # also after an interruption: it covers the images so far
        if folder and results and (document := predictor.document(results)):
            folder.write_document(document)
    return 0 if len(results) == len(images) else 1
