"""`rmt embed CHECKPOINT IMAGE… --output FILE`: the pooled features of a trained network for many images."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from rmt.commands.bulk import BulkEngine, checkpoint_and_images, write_answers_file
from rmt.commands.libraries import import_quickly
from rmt.recipes.recipe import Device, Precision


def run(
    images: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[CHECKPOINT] IMAGE…")],
    *,
    output: Path,
    stage: int | None = None,
    dtype: Literal["fp32", "fp16"] = "fp32",
    image_size: int | None = None,
    short_side: int | None = None,
    batch_size: int | None = None,
    workers: int = 2,
    device: Device = "auto",
    precision: Precision = "auto",
    engine: BulkEngine = "local",
    replicas: int = 0,
) -> int:
    """Write the embeddings of images: the pooled features of a network.

    An interrupted command can be repeated; it continues where it stopped. An image that cannot be read is named on
    stderr and has no embedding; the exit code is then 1.

    Args:
        images: A `.safetensors` file or a run folder (without either: rmt_micro); then images as `rmt predict` takes
            them: files, folders, patterns such as 'photos/*.jpg', parquet shards or tars, their addresses, or `-` for
            names on the standard input.
        output: The parquet file to write: `image`, `model` (name and fingerprint) and `embedding`, of fixed length.
        stage: The stage, counted from 1, whose output is averaged over the image. By default what a classifier's last
            layer sees, or the last stage of another network.
        dtype: Type of the embeddings in the file.
        image_size: Classifiers: side of the images in pixels, instead of the checkpoint's. Detectors: the short side.
        short_side: Segmenters: resize images to fit this short side, instead of the checkpoint's; 0 keeps their size.
        batch_size: Classifiers: images per step (32).
        workers: Processes that read images; 0 reads them in this process.
        device: Where to compute.
        precision: Precision of the forward pass.
        engine: `ray` has several networks work at the same time, on this machine or on the cluster of RAY_ADDRESS.
        replicas: With Ray: the number of networks; 0 takes one for each GPU, or for each `--workers` + 1 cores.
    """
    with import_quickly():
        from rmt.commands.options import not_an_option, options_for
        from rmt.errors import RMTError
        from rmt.inference import predictor_class
        from rmt.inference.bulk.work import Embedding
        from rmt.model import read_metadata

    if output.suffix.lower() != ".parquet":
        raise RMTError(f"--output {output}: embeddings are written as parquet; name it FILE.parquet")
    checkpoint, words = checkpoint_and_images(images, "embed")
    kind = predictor_class(read_metadata(checkpoint)["task"])
    sizes = {"image_size": image_size, "short_side": short_side}
    load_options = options_for(kind.load, given=sizes, path=checkpoint)
    if batch_size is not None and kind.batch_size == 1:
        raise not_an_option(["batch_size"], checkpoint)
    work = Embedding(
        checkpoint=checkpoint,
        load_options={"device": device, "precision": precision, **load_options},
        batch_size=batch_size,
        workers=workers,
        stage=stage,
        dtype=dtype,
    )
    return write_answers_file(work, words, output, engine=engine, replicas=replicas)
