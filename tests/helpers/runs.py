"""Small training runs that tests of many parts share."""

import atexit
import csv
import functools
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from helpers.pictures import make_folder
from rmt.recipes import ClassifyRecipe

TIMES = {"images_per_s", "seconds"}  # what no two runs agree in


@functools.cache
def _kept() -> Path:
    """A folder that is removed when the interpreter ends; not made at import, so that forked processes share none."""
    folder = tempfile.TemporaryDirectory(prefix="rmt-tests-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@functools.cache
def photos() -> str:
    """An image folder of three colours: 24 images to train on, 12 to judge."""
    return str(make_folder(_kept() / "photos"))


def tiny_recipe(**changes: Any) -> ClassifyRecipe:
    """Three epochs of three updates with everything on that has a state: accumulation, EMA, drop path, mixing."""
    values: dict[str, Any] = dict(
        name="tiny",
        data=photos(),
        model="rmt_test",
        image_size=32,
        epochs=3,
        batch_size=4,
        accumulate=2,
        lr=2e-3,
        lr_base_batch=0,
        warmup_epochs=1,
        drop_path=0.2,
        ema_decay=0.8,
        mixup=0.2,
        cutmix=0.2,
        random_erasing=0.2,
        min_crop=0.5,
        device="cpu",
        workers=0,
        checkpoint_minutes=0,
    )
    return ClassifyRecipe(**values | changes)


@functools.cache
def finished_run() -> Path:
    """The folder of a finished run of `tiny_recipe`. Not to be written to."""
    from rmt.tasks import train

    return train(tiny_recipe(output=str(_kept() / "finished"))).folder


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the run's three weight files, as FILE/NAME."""
    files = ("last", "last-ema", "best")
    return {f"{file}/{k}": v for file in files for k, v in load_file(run / f"{file}.safetensors").items()}


def rows(run: Path) -> list[dict[str, str]]:
    """metrics.csv without its timings."""
    with open(run / "metrics.csv", newline="") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def assert_same_run(run: Path, other: Path) -> None:
    """Both ended with bit-equal weights (raw, averaged, best) and wrote the same metrics."""
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    different = [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert not different, f"{len(different)} of {len(ours)} tensors differ, e.g. {different[:3]}"
    assert rows(run) == rows(other)
