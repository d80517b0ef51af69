"""A detection recipe made ready to train: what it leaves open is filled in, data opened, detector built."""

import math
from dataclasses import replace
from typing import Any

from rmt.errors import RMTError
from rmt.heads import detector
from rmt.heads.detection import MaskRCNN, RetinaNet
from rmt.recipes.detect_recipe import DetectRecipe
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.module import DetectModule
from rmt.training.initial_weights import settle_model, start_with_head
from rmt.training.optimizers import peak_lr
from rmt.training.task import Say

_UPDATES = 2000  # of a run that leaves its epochs open
_PRE_NMS, _TEST_PROPOSALS = 2000, 1000


def settle(recipe: DetectRecipe) -> DetectRecipe:
    """The recipe with `model="auto"` replaced, see `settle_model`."""
    if not recipe.data and not recipe.annotations:
        raise RMTError("--data is missing: a COCO folder; or give --images FOLDER --annotations FILE.json")
    return settle_model(recipe)


def prepare(recipe: DetectRecipe, *, fresh: bool, say: Say) -> DetectModule:
    """See `Task.prepare`."""
    data = DetectData.open(recipe)
    for line in (*data.train.notes, *(data.val.notes if data.val.table is not data.train.table else ())):
        say(line)
    model = build(recipe, len(data.classes))
    if recipe.weights and fresh:
        start_with_head(model, recipe.weights, data.classes, say)
    recipe = replace(recipe, batch_size=data.batch_size)  # as it runs: never more than there are images
    recipe = settle_length(recipe, data.batches_per_epoch // recipe.accumulate)
    return DetectModule(model, recipe, replace(data, recipe=recipe), lr=peak_lr(recipe))


def settle_length(recipe: DetectRecipe, updates_per_epoch: int) -> DetectRecipe:
    """The recipe with `epochs=0` replaced, and the steps of its rate placed as 1x has them, at 8/12 and 11/12."""
    if recipe.epochs:
        return recipe
    epochs = max(math.ceil(_UPDATES / updates_per_epoch), 12)
    steps = recipe.lr_steps or (round(epochs * 8 / 12), round(epochs * 11 / 12))
    return replace(recipe, epochs=epochs, lr_steps=steps)


def build(recipe: DetectRecipe, num_classes: int) -> RetinaNet | MaskRCNN:
    """The detector that the recipe describes."""
    options: dict[str, Any] = {"fpn_channels": recipe.fpn_channels}
    if recipe.head == "retinanet":
        options |= {"convs": recipe.head_convs, "octave_base": recipe.anchor_scale}
    else:
        options |= {
            "masks": recipe.masks,
            "mask_convs": recipe.head_convs,
            "mask_width": recipe.head_width,
            "box_fc_width": recipe.box_width,
            "rois_per_image": recipe.rois_per_image,
            "anchor_scales": (recipe.anchor_scale,),
            "pre_nms": (min(_PRE_NMS, 2 * recipe.proposals), min(_TEST_PROPOSALS, recipe.proposals)),
            "post_nms": (recipe.proposals, min(_TEST_PROPOSALS, recipe.proposals)),
        }
    if recipe.head == "cascade_mask_rcnn":
        options |= {"box_convs": recipe.head_convs, "box_conv_width": recipe.head_width}
    return detector(
        recipe.head,
        recipe.model,
        num_classes,
        drop_path_rate=recipe.drop_path,
        **options,
    )
