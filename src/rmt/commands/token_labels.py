"""`rmt token-labels`: a teacher's dense label maps for token labelling."""

from dataclasses import replace
from pathlib import Path

from rmt.recipes.recipe import Device, Precision


def run(
    *,
    data: str,
    out: Path,
    teacher: str = "",
    weights: str = "",
    image_size: int = 0,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    top_k: int = 5,
    shard_images: int = 10_000,
    part: str = "1/1",
    batch_size: int = 64,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int = 2,
) -> None:
    """Store a teacher's dense predictions (label maps) of training images, for `-tl` recipes (`--token-labels OUT`).

    After an interruption the same command continues where it stopped.

    Args:
        data: An image folder, a folder of parquet shards, or `sample`: the data to train on.
        out: The folder for the maps.
        teacher: The name of a network in timm; not needed if `--weights` is a model file or run folder of this package.
        weights: The teacher's weights: a `.safetensors` or PyTorch file, or a run folder; by default timm's pretrained
            weights.
        image_size: Side in pixels that every image is resized to, instead of the teacher's own; 0 keeps that.
        mean: Mean of the three channels in 0…1 that the teacher expects, instead of timm's default.
        std: Their standard deviation.
        top_k: Classes to keep per location.
        shard_images: Images per file.
        part: `2/8` makes the second of eight parts; run all eight, anywhere, into the same folder.
        batch_size: Images per step.
        device: Where to compute.
        precision: Precision of the teacher's forward pass.
        workers: Processes that read images.
    """
    from rmt.errors import RMTError
    from rmt.tasks.classify.token_labelling.maps import make_token_labels
    from rmt.tasks.classify.token_labelling.teacher import load_teacher
    from rmt.training.evaluation_facts import unreadable_lines

    if not teacher and not weights:
        raise RMTError("--teacher is missing: the name of a network in timm, or --weights with a model file of rmt")
    if image_size and image_size < 32:
        raise RMTError(f"--image-size {image_size}: give 32 pixels or more")
    if std is not None and min(std) <= 0:
        raise RMTError(f"--std must be positive, not {' '.join(map(str, std))}")
    loaded = load_teacher(teacher, weights)
    size = (image_size, image_size) if image_size else loaded.size
    loaded = replace(loaded, mean=mean or loaded.mean, std=std or loaded.std, size=size)
    report = make_token_labels(
        loaded,
        data,
        out,
        top_k=top_k,
        shard_images=shard_images,
        part=part,
        batch_size=batch_size,
        device=device,
        precision=precision,
        workers=workers,
    )
    spec = report.spec
    grid, gigabytes = "×".join(map(str, spec.grid)), spec.bytes_per_image / 1e3
    print(
        f"{out}: label maps of {spec.images:,} images by {spec.teacher}, {grid} locations of {spec.top_k} classes, "
        f"{report.bytes / 1e6:,.1f} MB ({gigabytes:.2f} GB per million images)"
    )
    if report.maps and spec.num_classes > 1:
        share = 100 * report.agree / report.maps
        print(f"{report.maps:,} made now; the pooled map's top-1 class equals the label for {share:.1f} %")
    for line in unreadable_lines(report.unreadable, label="no map"):
        print(line)
    if report.missing:
        print(f"{report.missing} of {spec.files} shards are still to be made by the other parts")
