"""Small detection runs that tests of many parts share."""

import functools
import tempfile
from dataclasses import replace
from pathlib import Path

import rmt
from helpers.coco_sets import make_coco
from rmt.recipes import DetectRecipe

_KEPT = tempfile.TemporaryDirectory(prefix="rmt-tests-")  # removed when the interpreter ends
NARROW = dict(fpn_channels=8, head_convs=1, head_width=8, box_width=16, rois_per_image=16, proposals=32)


@functools.cache
def data() -> Path:
    """A COCO folder: 9 images to train on, of which 8 make whole batches, 4 to judge."""
    return make_coco(Path(_KEPT.name) / "coco", train=9, val=4)


def tiny_recipe(**changes) -> DetectRecipe:
    """Two epochs of two updates with everything on that has a state: accumulation, EMA, drop path, random sizes."""
    values = dict(
        name="tiny-detect",
        data=str(data()),
        model="rmt_test",
        short_side=64,
        long_side=96,
        train_short_sides=(48, 64),
        anchor_scale=4.0,
        epochs=2,
        lr_steps=(1,),
        batch_size=2,
        accumulate=2,
        lr=2e-3,
        lr_base_batch=0,
        warmup_iterations=2,
        drop_path=0.2,
        ema_decay=0.8,
        device="cpu",
        nodes=1,
        workers=0,
        checkpoint_minutes=0,
    )
    recipe = DetectRecipe(**values | changes)
    if recipe.head == "retinanet":
        return replace(recipe, **{key: NARROW[key] for key in ("fpn_channels", "head_convs")} | changes)
    unused = () if recipe.masks or recipe.head == "cascade_mask_rcnn" else ("head_convs", "head_width")
    return replace(recipe, **{key: value for key, value in NARROW.items() if key not in unused} | changes)


@functools.cache
def finished_run() -> Path:
    """The folder of a finished run. Not to be written to."""
    return rmt.train(tiny_recipe(output=str(Path(_KEPT.name) / "finished"))).folder
