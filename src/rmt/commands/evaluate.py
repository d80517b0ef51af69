"""`rmt evaluate CHECKPOINT --data …`: accuracy of a trained classifier on a set of images."""

import json as json_module
from pathlib import Path
from typing import Annotated

import tyro

from rmt.recipes.schema import Device, Precision


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    *,
    data: str,
    batch_size: int = 64,
    image_size: int = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int = 2,
    output: Path | None = None,
    json: bool = False,
) -> None:
    """Score a trained classifier on a set of images.

    Args:
        checkpoint: A `.safetensors` file, or a run folder (meaning its best weights).
        data: An image folder, a folder of parquet shards, or `sample`. Its validation split is scored, or all of it if
            there is none.
        batch_size: Images per step.
        image_size: Side in pixels of the images, instead of the checkpoint's; 0 keeps that.
        device: Where to compute.
        precision: Arithmetic of the forward pass.
        workers: Processes that read images; 0 does it in this process.
        output: Also write the result, the confusion matrix included, into this JSON file.
        json: Print JSON instead of text.
    """
    from rmt.tasks.scoring import evaluate_checkpoint
    from rmt.training.atomic import write_text

    result = evaluate_checkpoint(
        checkpoint,
        data,
        batch_size=batch_size,
        image_size=image_size,
        device=device,
        precision=precision,
        workers=workers,
    )
    if output is not None:
        write_text(output, json_module.dumps(result, indent=2) + "\n")
    if json:
        print(json_module.dumps({key: value for key, value in result.items() if key != "confusion"}))
        return
    scores = f"top-1 {result['top1']:.2f} %   top-5 {result['top5']:.2f} %   loss {result['loss']:.4f}"
    print(f"{scores}   ({result['images']:,} images)")
    for name, reason in list(result["unreadable"].items())[:5]:
        print(f"passed over: {name} ({reason})")
    if len(result["unreadable"]) > 5:
        print(f"… {len(result['unreadable'])} unreadable images in all")
