"""`rmt predict CHECKPOINT IMAGE…`: the predictions of a trained network for one image or a million."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from rmt.commands.bulk import BulkEngine, checkpoint_and_images, is_answers, write_answers_file
from rmt.commands.libraries import import_quickly
from rmt.recipes.recipe import Device, Precision
from rmt.terminal import complain, say


def run(
    checkpoint: Annotated[str, tyro.conf.Positional],
    images: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    top_k: int | None = None,
    image_size: int | None = None,
    output: Path | None = None,
    pictures: bool = True,
    masks: Literal["rle", "png", "none"] | None = None,
    threshold: float | None = None,
    inference: Literal["whole", "sliding"] | None = None,
    short_side: int | None = None,
    flip: bool = False,
    scales: tuple[float, ...] | None = None,
    batch_size: int | None = None,
    workers: int = 2,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: BulkEngine = "local",
    replicas: int = 0,
    json: bool = False,
) -> int:
    """Predict what images show.

    `rmt predict CHECKPOINT --help` shows the options of its task alone.

    An image that cannot be read is named on stderr and skipped; the exit code is then 1. Answers for many images go
    into a file: `--output answers.parquet`. An interrupted command that writes one can be repeated; it continues where
    it stopped.

    Args:
        checkpoint: A `.safetensors` file, an exported file, a run folder (meaning its best weights), or a network with
            weights in the package. Without one (`rmt predict photo.jpg`) it is rmt_micro, for the classes of CIFAR-10.
        images: Image files, folders, patterns such as 'photos/*.jpg', parquet shards or tars, addresses of any of
            these (https://…, s3://…), or `-` for names on the standard input, one per line.
        top_k: Classifiers: how many classes to predict per image, likeliest first (5).
        image_size: Classifiers: side of the images in pixels, instead of the checkpoint's. Detectors: the
            short side, the longest one in proportion.
        output: A file of answers that ends in .parquet, .csv or .jsonl; images that have an answer there are left out.
            Detectors and segmenters: or the folder for pictures, new or empty; without it predictions, or
            predictions-2 and so on where that exists. Images of one name become IMAGE, IMAGE-2 and so on. Detectors:
            boxes and masks, and predictions.json. Segmenters: IMAGE-overlay.png with a legend, and IMAGE-classes.png,
            whose values are the class indices.
        pictures: Detectors and segmenters: draw and write pictures, unless `output` is a file of answers. Without them
            a detector writes predictions.json only, and only where `output` is given.
        masks: Detectors and segmenters: how a file of answers has masks: as COCO's run lengths (rle, the default), as
            PNG files in the rows (png, .parquet only), or not (none).
        threshold: Detectors: the lowest score of objects in text and pictures, instead of the one that gave the best F1
            on the validation images of the run (0.5 if the file does not contain one); if given, also in a file of
            answers, which otherwise has all objects.
        inference: Segmenters: whole images or sliding windows, instead of as in training.
        short_side: Segmenters: resize images to fit this short side, instead of the checkpoint's; 0 keeps their size.
        flip: Segmenters: average with the prediction for the mirrored image.
        scales: Segmenters: average the predictions at several sizes, e.g. 0.75 1 1.25.
        batch_size: Classifiers: images per step (32). Segmenters: windows per step (4).
        workers: Processes that read images, if there are more than a few; 0 reads them in this process.
        device: Where to compute.
        precision: Precision of the forward pass.
        engine: `ray` has several networks work at the same time on a file of answers, on this machine or on the cluster
            of RAY_ADDRESS.
        replicas: With Ray: the number of networks; 0 takes one for each GPU, or for each `--workers` + 1 cores.
        json: Print one JSON object per image instead of text.
    """
    with import_quickly():
        import numpy as np
        from rich.console import Console

        from rmt.commands.options import not_an_option, options_for
        from rmt.data.images import BadImage
        from rmt.data.sources.collection import open_collection
        from rmt.errors import RMTError
        from rmt.inference import predictor_class
        from rmt.inference.bulk.progress import progress_bar
        from rmt.inference.bulk.stream import FEW, Selection, check_counts
        from rmt.inference.files import predict_files
        from rmt.inference.results import ImageResult, PredictionFolder
        from rmt.model import read_metadata
        from rmt.output_folder import require_empty

    path, words = checkpoint_and_images((str(checkpoint), *map(str, images)), "predict")
    kind = predictor_class(read_metadata(path)["task"])
    sizes = {"image_size": image_size, "short_side": short_side}
    load_options = {"device": device, "precision": precision, **options_for(kind.load, given=sizes, path=path)}
    given: dict[str, Any] = {"top_k": top_k, "threshold": threshold, "inference": inference}
    given |= {"flip": flip or None, "scales": scales}
    images_per_step = batch_size if kind.batch_size > 1 else None
    given |= {"batch_size": batch_size if images_per_step is None else None}
    options = options_for(kind.run, kind.show, given=given, path=path)
    check_counts(batch_size, workers, replicas, top_k)
    if not kind.has_pictures and (masks or not pictures):
        raise not_an_option(["masks"] if masks else ["no_pictures"], path)
    if is_answers(output):
        assert output is not None
        if json:
            raise RMTError("--json prints answers: leave it out, or write them with --output FILE.jsonl")
        if masks == "png" and output.suffix.lower() != ".parquet":
            raise RMTError("--masks png needs --output FILE.parquet: other files have no bytes; use rle or none")
        from rmt.inference.bulk.work import Prediction

        shown = {key: options.pop(key, None) for key in ("threshold",)}
        work = Prediction(
            checkpoint=path,
            load_options=load_options,
            run_options=options,
            batch_size=images_per_step,
            workers=workers,
            masks=masks or "rle",
            **shown,
        )
        return write_answers_file(work, words, output, engine=engine, replicas=replicas)
    if output is not None and not kind.has_pictures:
        raise RMTError(f"--output {output}: name a file of answers, FILE.parquet, FILE.csv or FILE.jsonl")
    if masks or engine != "local" or replicas:
        option = "--masks" if masks else "--replicas" if engine == "local" else "--engine ray"
        raise RMTError(f"{option} is for files of answers: add --output FILE.parquet, FILE.csv or FILE.jsonl")
    if output is not None:
        require_empty(output)
    collection = open_collection(words)
    stems = [collection.stem(i) for i in range(len(collection))] if kind.has_pictures else []
    folder = PredictionFolder(output, stems) if kind.has_pictures and (pictures or output) else None
    predictor = kind.load(path, **load_options)

    def write(number: int, result: ImageResult) -> dict[str, str]:
        return folder.write(number, result.pictures) if folder and pictures else {}

    results: list[tuple[Path, ImageResult]] = []
    bad = 0
    every = Selection(collection, np.arange(len(collection)))
    answers = predict_files(predictor, every, write, batch_size=images_per_step, workers=workers, **options)
    try:
        with progress_bar(
            Console(stderr=True), len(collection), hidden=sys.stdout.isatty() or len(collection) <= FEW
        ) as advance:
            for number, result, files in answers:
                advance(1)
                name = collection.name(number)
                if isinstance(result, BadImage):
                    bad += 1
                    complain(f"rmt: {result}")
                    continue
                if folder:
                    # Without what draws them: the photographs and pictures of all images would fill the memory.
                    results.append((Path(name), ImageResult(result.text, result.values)))
                if json:
                    print(json_module.dumps({"image": name, **result.values, **files}))
                else:
                    say(f"{name}: {result.text}" + (f"; see {', '.join(files.values())}" if files else ""))
    finally:  # also after an interruption: it covers the images so far
        if folder and results and (document := predictor.document(results)):
            folder.write_document(document)
    if bad > 1:
        complain(f"rmt: {bad:,} of {len(collection):,} images could not be read")
    return 1 if bad else 0
