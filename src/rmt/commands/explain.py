"""`rmt explain CHECKPOINT IMAGE…`: a figure of what a network's decision about an image rests on."""

import json as json_module
import re
from pathlib import Path
from typing import Annotated, Any

import tyro

from rmt.commands.libraries import import_quickly
from rmt.recipes.recipe import Device
from rmt.terminal import complain, plural, say


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    images: Annotated[tuple[str, ...], tyro.conf.Positional],
    *,
    at: str | None = None,
    target: str | None = None,
    evidence: bool = True,
    reach: bool = False,
    image_size: int | None = None,
    short_side: int | None = None,
    output: Path | None = None,
    device: Device = "auto",
    json: bool = False,
) -> int:
    """Draw what led to the answer of a network for an image, and how far its heads look.

    `rmt explain CHECKPOINT --help` shows the options of its task alone.

    One PNG per image: the decision; the regions and pixels that speak for it (Grad-CAM, integrated gradients: the extra
    `explain`); the attention of every stage from one point, beside the decay that is built into each head; the pixels
    that the point depends on. It is computed in float32.

    An image that cannot be read is named on stderr and skipped; the exit code is then 1.

    Args:
        checkpoint: A `.safetensors` file, a run folder (meaning its best weights), or a network with weights in the
            package. Without one (`rmt explain photo.jpg`) it is rmt_micro, for the classes of CIFAR-10.
        images: Image files, folders of them, patterns or shards.
        at: The point to look from, X,Y in pixels of the image. By default the middle of the object or segment that is
            explained; for a classifier the strongest region of Grad-CAM. A detector or segmenter explains the object or
            class at this point.
        target: The class to explain, instead of the likeliest one.
        evidence: Compute Grad-CAM and integrated gradients, which take most of the time.
        reach: Instead of a figure per image, one plot for all of them (the first 16): how far each head looks on
            average, against the distance at which its decay is one half.
        image_size: Classifiers: side of the images in pixels, instead of the checkpoint's. Detectors: the
            short side, the longest one in proportion.
        short_side: Segmenters: resize images to fit this short side, instead of the checkpoint's; 0 keeps their size.
        output: The folder for the pictures, new or empty; without it explanations, or explanations-2 and so on where
            that exists.
        device: Where to compute.
        json: Print one JSON object per image, or per stage with `reach`, instead of text.
    """
    with import_quickly():
        from rmt.commands.options import options_for
        from rmt.data.images import EXTENSIONS, BadImage
        from rmt.data.sources.collection import open_collection
        from rmt.errors import RMTError
        from rmt.inference import predictor_class
        from rmt.inference.explain.figure import draw_explanation
        from rmt.inference.explain.files import FigureFolder
        from rmt.inference.explain.reach import MAX_IMAGES, draw_reach, measure_reach
        from rmt.inference.results import unique_names
        from rmt.model import read_metadata
        from rmt.model.shipped import DEFAULT
        from rmt.output_folder import require_empty

    if checkpoint.suffix.lower() in EXTENSIONS and not checkpoint.is_dir():
        checkpoint, images = Path(DEFAULT), (str(checkpoint), *images)
        classes = ", ".join(read_metadata(checkpoint)["classes"])
        complain(f"no checkpoint given: {DEFAULT} is used, which knows {classes}")
    if not images:
        raise RMTError("name at least one image: rmt explain CHECKPOINT IMAGE…")
    if at is not None and not (numbers := re.fullmatch(r"\s*(\d{1,6})\s*[,x ]\s*(\d{1,6})\s*", at)):
        raise RMTError(f"--at {at!r:.40}: write the point as X,Y in pixels of the image, such as --at 320,200")
    point = (float(numbers[1]), float(numbers[2])) if at is not None and numbers else None
    if reach and (at is not None or target is not None):
        raise RMTError("--reach measures all heads over whole images: leave out --at and --target")
    kind = predictor_class(read_metadata(checkpoint)["task"])
    sizes = options_for(kind.load, given={"image_size": image_size, "short_side": short_side}, path=checkpoint)
    if output is not None:
        require_empty(output)
    collection = open_collection(images)
    stems = [collection.stem(number) for number in range(len(collection))]
    folder = FigureFolder(output, ["reach"] if reach else unique_names(stems))
    predictor = kind.load(checkpoint, device=device, precision="fp32", **sizes)
    backbone = predictor.backbone()  # before images are read: it refuses networks that cannot be explained
    name = predictor.metadata["model"]
    title = name if str(checkpoint) == name else f"{name} in {checkpoint}"
    inputs: list[Any] = []
    failed = 0
    for number in range(min(len(collection), MAX_IMAGES) if reach else len(collection)):
        name = collection.name(number)
        try:
            photo = collection.load(number)
        except BadImage as error:
            complain(f"rmt: {error}")
            failed += 1
            continue
        if reach:
            inputs += predictor.normalized(predictor.collate([predictor.transform()(photo)]))
            continue
        found = predictor.explain(photo, at=point, target=target, evidence=evidence)
        picture = folder.write(number, draw_explanation(found, Path(name).name, title))
        values = {"image": name, **found.values(), "picture": picture}
        say(json_module.dumps(values) if json else f"{name}: {found.decision}; see {picture}")
    if reach and inputs:
        stages = measure_reach(backbone, [image.to(predictor.device) for image in inputs])
        picture = folder.write(0, draw_reach(stages, f"{title}, {plural(len(inputs), 'image')}"))
        for stage in stages:
            say(json_module.dumps(stage.values() | {"picture": picture}) if json else stage.text())
        if not json:
            say(f"see {picture}")
    return 1 if failed else 0
