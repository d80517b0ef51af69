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
from rmt.training.initial_weights import load_backbone_or_all, resolve_model
from rmt.training.optimizers import peak_lr
from rmt.training.task import Log

_UPDATES = 2000  # of a run that leaves its epochs open
_PRE_NMS, _TEST_PROPOSALS = 2000, 1000


def resolve(recipe: DetectRecipe) -> DetectRecipe:
    """The recipe with `model="auto"` replaced, see `resolve_model`."""
    if not recipe.data and not recipe.annotations:
        raise RMTError("--data is missing: a COCO folder; or give --images FOLDER --annotations FILE.json")
    return resolve_model(recipe)


def build(recipe: DetectRecipe, *, fresh: bool, log: Log) -> DetectModule:
    """See `Task.build`."""
    data = DetectData.open(recipe)
    for line in (*data.train.notes, *(data.val.notes if data.val.table is not data.train.table else ())):
        log(line)
    model = build_detector(recipe, len(data.classes))
    if recipe.weights and fresh:
        load_backbone_or_all(model, recipe.weights, data.classes, log)
    recipe = replace(recipe, batch_size=data.batch_size)  # as it runs: never more than there are images
    recipe = resolve_length(recipe, data.batches_per_epoch // recipe.accumulate)
    return DetectModule(model, recipe, replace(data, recipe=recipe), lr=peak_lr(recipe))


def resolve_length(recipe: DetectRecipe, updates_per_epoch: int) -> DetectRecipe:
    """The recipe with `epochs=0` replaced, and the steps of its rate placed as 1x has them, at 8/12 and 11/12."""
    if recipe.epochs:
        return recipe
    epochs = max(math.ceil(_UPDATES / updates_per_epoch), 12)
    steps = recipe.lr_steps or (round(epochs * 8 / 12), round(epochs * 11 / 12))
    return replace(recipe, epochs=epochs, lr_steps=steps)


def build_detector(recipe: DetectRecipe, num_classes: int) -> RetinaNet | MaskRCNN:
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
