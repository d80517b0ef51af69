"""A detection recipe resolved, and its detector and module built."""

import math
from dataclasses import replace
from typing import Any

from rmt.heads import detector
from rmt.heads.detection import MaskRCNN, RetinaNet
from rmt.recipes import DetectRecipe
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.module import DetectModule
from rmt.training.batch import require_images, world_size
from rmt.training.network import build_network, load_backbone_or_all
from rmt.training.task import Log

_UPDATES = 2000  # of a run whose recipe leaves its epochs open
_PRE_NMS, _TEST_PROPOSALS = 2000, 1000


def resolve(recipe: DetectRecipe, data: DetectData) -> DetectRecipe:
    """Fills in what depends on the data. See `Task.resolve`.

    - metric: the box AP;
    - batch_size: at most the training images of one device;
    - epochs: as many as make about 2,000 updates, at least 12; with lr_steps at 8/12 and 11/12 of them, as in 1x.
    """
    if recipe.metric == "auto":
        recipe = replace(recipe, metric="box_ap")
    recipe = replace(recipe, batch_size=max(min(recipe.batch_size, len(data.train) // world_size(recipe)), 1))
    require_images(recipe, len(data.train))
    if recipe.epochs:
        return recipe
    epochs = max(math.ceil(_UPDATES / (data.batches_per_epoch(recipe) // recipe.accumulate)), 12)
    return replace(recipe, epochs=epochs, lr_steps=recipe.lr_steps or (round(epochs * 8 / 12), round(epochs * 11 / 12)))


def build(recipe: DetectRecipe, data: DetectData, *, fresh: bool, log: Log) -> DetectModule:
    """See `Task.build`."""
    for line in (*data.train.notes, *(data.val.notes if data.val.table is not data.train.table else ())):
        log(line)
    model = build_detector(recipe, len(data.classes))
    if recipe.weights and fresh:
        load_backbone_or_all(model, recipe.weights, data.classes, log)
    return DetectModule(model, recipe, data)


def build_detector(recipe: DetectRecipe, num_classes: int) -> RetinaNet | MaskRCNN:
    """Returns the detector that the recipe, a resolved one, describes."""
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
    return detector(recipe.head, build_network(recipe), num_classes, **options)
