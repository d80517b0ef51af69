"""A segmentation recipe checked against its data, and its network and module built."""

from dataclasses import replace
from typing import Any

import torch

from rmt.data.segmentation.dataset import count_pixels
from rmt.heads import segmenter
from rmt.heads.segmentation.losses import SegmentationLoss, median_frequency_weights
from rmt.recipes import SegmentRecipe
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.module import SegmentModule
from rmt.training.batch import require_images
from rmt.training.network import build_network, load_backbone_or_all
from rmt.training.task import Log


def resolve(recipe: SegmentRecipe, data: SegmentData) -> SegmentRecipe:
    """Fills in the metric, and checks that the data fill a batch. See `Task.resolve`."""
    require_images(recipe, len(data.train))
    return replace(recipe, metric="miou") if recipe.metric == "auto" else recipe


def head_args(recipe: SegmentRecipe) -> dict[str, Any]:
    """Returns the keywords for a head of `head_width` channels; none for its default width."""
    width = recipe.head_width
    if not width:
        return {}
    if recipe.head == "semantic_fpn":
        return {"channels": width, "fpn_channels": 2 * width}
    return {"channels": width, "aux_channels": max(width // 2, 1)}


def build(recipe: SegmentRecipe, data: SegmentData, *, fresh: bool, log: Log) -> SegmentModule:
    """See `Task.build`."""
    model = segmenter(recipe.head, build_network(recipe), len(data.classes), head_args=head_args(recipe))
    model.aux_weight = recipe.aux_weight
    if recipe.weights and fresh:
        load_backbone_or_all(model, recipe.weights, data.classes, log)
    return SegmentModule(model, recipe, data, build_loss(recipe, data))


def build_loss(recipe: SegmentRecipe, data: SegmentData) -> SegmentationLoss:
    """The loss that the recipe describes; with `class_weights` the training masks are read once."""
    weights = None
    if recipe.class_weights:
        weights = median_frequency_weights(torch.from_numpy(count_pixels(data.train)))
    return SegmentationLoss(focal_gamma=recipe.focal_gamma, dice_weight=recipe.dice_weight, class_weights=weights)
