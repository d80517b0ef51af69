"""`rmt predict CHECKPOINT IMAGE…`: what a trained classifier calls some images."""

import json as json_module
import sys
from pathlib import Path
from typing import Annotated

import tyro

from rmt.recipes.schema import Device, Precision


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional],
    *,
    top_k: int = 5,
    image_size: int = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    json: bool = False,
) -> int:
    """Name what is on some images.

    An image that cannot be read is named on stderr, the others are answered all the same; the exit code is then 1.

    Args:
        checkpoint: A `.safetensors` file, or a run folder (meaning its best weights).
        images: Image files.
        top_k: How many classes to name per image, likeliest first.
        image_size: Side in pixels the images are brought to, instead of the checkpoint's; 0 keeps that.
        device: Where to compute.
        precision: Arithmetic of the forward pass.
        json: Print one JSON object per image instead of text.
    """
    from rmt.data.images import BadImage
    from rmt.errors import RMTError
    from rmt.tasks.predictor import load

    if not images:
        raise RMTError("name at least one image: rmt predict CHECKPOINT IMAGE…")
    predictor = load(checkpoint, device=device, precision=precision, image_size=image_size)
    bad = 0
    for path in images:
        try:
            (answer,) = predictor.predict(path, top_k=top_k)
        except BadImage as error:
            bad += 1
            print(f"rmt: {error}", file=sys.stderr)
            continue
        if json:
            ranking = [{"label": p.label, "probability": p.probability, "index": p.index} for p in answer]
            print(json_module.dumps({"image": str(path), "predictions": ranking}))
        else:
            print(f"{path}: " + ", ".join(f"{p.label} {100 * p.probability:.1f} %" for p in answer))
    return 1 if bad else 0
