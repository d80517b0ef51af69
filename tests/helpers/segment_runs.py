"""Small segmentation runs that tests share."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import rmt
from helpers.segment_data import make_segments
from rmt.recipes import SegmentRecipe

_KEPT = tempfile.TemporaryDirectory(prefix="rmt-segment-")


@functools.cache
def data() -> str:
    return str(make_segments(Path(_KEPT.name) / "data"))


def tiny(**changes: Any) -> SegmentRecipe:
    """Six iterations in three parts, with everything on that has a state: accumulation, EMA, drop path, warm-up."""
    values: dict[str, Any] = dict(
        name="tiny-segment",
        data=data(),
        model="rmt_test",
        head_width=8,
        iterations=6,
        validate_every=2,
        batch_size=4,
        accumulate=2,
        lr=2e-3,
        lr_base_batch=0,
        min_lr=1e-5,
        warmup_iterations=2,
        warmup_start=0.1,
        drop_path=0.2,
        ema_decay=0.8,
        crop_size=32,
        long_side=64,
        short_side=32,
        device="cpu",
        workers=0,
        checkpoint_minutes=0.0,
    )
    return SegmentRecipe(**values | changes)


@functools.cache
def finished() -> Path:
    """The folder of a finished run of `tiny`. Not to be written to."""
    return rmt.train(tiny(output=str(Path(_KEPT.name) / "finished"))).folder
