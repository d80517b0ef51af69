"""`rmt token-labels`: a teacher's dense label maps for token labelling."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import tyro

from rmt.commands.bulk import BulkEngine
from rmt.recipes.recipe import Device, Precision
from rmt.terminal import plural, say


def run(
    *,
    data: str,
    out: Path,
    import_: Annotated[Path | None, tyro.conf.arg(name="import")] = None,
    teacher: str = "",
    weights: str = "",
    image_size: int = 0,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    top_k: int = 5,
    shard_images: int = 10_000,
    batch_size: int = 64,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: int = 2,
    engine: BulkEngine = "local",
    replicas: int = 0,
) -> None:
    """Store a teacher's dense predictions (label maps) of training images, for `-tl` recipes (`--token-labels OUT`).

    The maps are computed by a teacher (`--teacher`, `--weights`) or packed from published ones (`--import`). After an
    interruption the same command continues where it stopped.

    Args:
        data: An image folder, a folder of parquet shards, or `sample`: the data to train on.
        out: The folder for the maps.
        import_: A folder of published maps, CLASS/IMAGE.pt, each a tensor (2, k, height, width) of logits and class
            numbers, such as LV-ViT's label_top5_train_nfnet. They are matched with the images by name and packed.
        teacher: The name of a network in timm; not needed if `--weights` is a model file or run folder of this package.
        weights: The teacher's weights: a `.safetensors` or PyTorch file, or a run folder; by default timm's pretrained
            weights.
        image_size: Side in pixels that every image is resized to, instead of the teacher's own; 0 keeps that.
        mean: Mean of the three channels in 0…1 that the teacher expects, instead of timm's default.
        std: Their standard deviation.
        top_k: Classes to keep per location, 1 to 100; all of a teacher that has fewer.
        shard_images: Images per file.
        batch_size: Images per step.
        device: Where to compute.
        precision: Precision of the teacher's forward pass.
        workers: Processes that read images, or threads that read published maps.
        engine: `ray` has several teachers work at the same time, on this machine or on the cluster of RAY_ADDRESS.
        replicas: With Ray: the number of teachers; 0 takes one for each GPU, or for each `--workers` + 1 cores.
    """
    from rmt.commands.options import require_unused
    from rmt.data.token_labels.label_maps import INDEX
    from rmt.output_folder import require_reopenable
    from rmt.training.evaluation_facts import unreadable_lines

    require_reopenable(out.expanduser(), INDEX, "label maps")
    if import_ is not None:
        given: dict[str, Any] = dict(
            teacher=teacher, weights=weights, image_size=image_size, mean=mean, std=std, top_k=top_k
        )
        given |= dict(batch_size=batch_size, device=device, precision=precision, engine=engine, replicas=replicas)
        require_unused(run, given, "no effect with --import, whose maps are stored as they are")
        from rmt.tasks.classify.token_labelling.published_maps import import_label_maps

        report = import_label_maps(import_, data, out, shard_images=shard_images, workers=workers)
    else:
        from rmt.tasks.classify.token_labelling.maps import check_options, make_token_labels

        options: dict[str, Any] = dict(top_k=top_k, shard_images=shard_images, batch_size=batch_size)
        options |= dict(device=device, precision=precision, workers=workers)
        check_options(**options)
        labeller = _labeller(engine, replicas)
        loaded = _load_teacher(teacher, weights, image_size, mean, std)
        report = make_token_labels(loaded, data, out, **options, labeller=labeller)
    spec = report.spec
    grid, gigabytes = "×".join(map(str, spec.grid)), spec.bytes_per_image / 1e3
    say(
        f"{out}: label maps of {plural(spec.images, 'image')} by {spec.teacher}, {grid} locations of "
        f"{plural(spec.top_k, 'class')}, "
        f"{report.bytes / 1e6:,.1f} MB ({gigabytes:.2f} GB per million images)"
    )
    if report.maps and spec.num_classes > 1:
        share = 100 * report.agree / report.maps
        say(f"{report.maps:,} made now; the pooled map's top-1 class equals the label for {share:.1f} %")
    for line in unreadable_lines(report.unreadable, label="no map"):
        say(line)
    if import_ is not None:
        say(f"{plural(report.without_map, 'image')} without a map in {import_}, left out of trainings")


def _load_teacher(
    name: str,
    weights: str,
    image_size: int,
    mean: tuple[float, float, float] | None,
    std: tuple[float, float, float] | None,
) -> Any:
    """The teacher with the preprocessing that the options give."""
    from rmt.errors import RMTError
    from rmt.tasks.classify.token_labelling.teacher import load_teacher

    if not name and not weights:
        raise RMTError(
            "--teacher is missing: the name of a network in timm, or --weights with a model file of rmt, or --import "
            "with a folder of published maps"
        )
    if image_size and image_size < 32:
        raise RMTError(f"--image-size {image_size}: give 32 pixels or more")
    if std is not None and min(std) <= 0:
        raise RMTError(f"--std must be positive, not {' '.join(map(str, std))}")
    loaded = load_teacher(name, weights)
    size = (image_size, image_size) if image_size else loaded.size
    return replace(loaded, mean=mean or loaded.mean, std=std or loaded.std, size=size)


def _labeller(engine: BulkEngine, replicas: int) -> Callable[..., Any] | None:
    """What makes the files of maps, if it is not this process."""
    from rmt.errors import RMTError

    if replicas < 0 or (replicas and engine == "local"):
        raise RMTError("--replicas is the number of teachers on Ray, at least 0: add --engine ray")
    if engine == "local":
        return None
    from rmt.tasks.classify.token_labelling.ray_maps import label_on_ray

    return partial(label_on_ray, replicas=replicas)
