"""A segmentation recipe checked against its data, and its network and module built."""

from dataclasses import replace
from typing import Any

import torch

from rmt.heads import Segmenter, segmenter
from rmt.heads.segmentation.losses import SegmentationLoss, median_frequency_weights
from rmt.recipes import SegmentRecipe
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.defaults import median_size, segment_defaults
from rmt.tasks.segment.module import SegmentModule
from rmt.training.batch import require_images, world_size
from rmt.training.network import build_network, feature_channels, load_backbone_or_all
from rmt.training.task import Log

_MAX_WARMUP = 0.05  # of the iterations
_BATCH = 8
_ITERATIONS = 4_000


def resolve(recipe: SegmentRecipe, data: SegmentData) -> SegmentRecipe:
    """Fills in what the recipe leaves open, and checks that the data fill a batch. See `Task.resolve`.

    - image and crop sizes, width of the head, learning rate, weight decay: see `segment_defaults`;
    - iterations: 4,000, evaluated eight times, with a warm-up of at most a twentieth; metric: the mean IoU.
    """
    recipe = fill_defaults(recipe, data).fill_open(iterations=_ITERATIONS, clip_grad=0.0, metric="miou")
    require_images(recipe, len(data.train))
    warmup = min(int(recipe.iterations * _MAX_WARMUP), _defaults(recipe, data)["warmup_iterations"])
    every = evaluation_interval(recipe.iterations, 8)
    if not recipe.is_open("warmup_iterations") and recipe.warmup_iterations >= recipe.iterations:
        recipe = replace(recipe, warmup_iterations=warmup)
    return recipe.fill_open(validate_every=every, warmup_iterations=warmup)


def fill_defaults(recipe: SegmentRecipe, data: SegmentData, scale: float = 1.0) -> SegmentRecipe:
    """Returns the recipe with all but its length filled in, see `segment_defaults`.

    The network must be known. `scale` reduces the images, if their size is open.
    """
    batch = max(min(_BATCH, len(data.train) // world_size(recipe)), 1)
    values = {key: value for key, value in _defaults(recipe, data, scale).items() if key != "warmup_iterations"}
    return recipe.fill_open(batch_size=batch, **values)


def _defaults(recipe: SegmentRecipe, data: SegmentData, scale: float = 1.0) -> dict[str, Any]:
    network: dict[str, Any] = dict(channels=feature_channels(recipe)[-1], from_weights=bool(recipe.weights))
    size = median_size(data.train)
    values = segment_defaults(size, device=recipe.device, **network)
    if scale == 1:
        return values
    factor = scale * min(values["short_side"], min(size)) / min(size)
    return segment_defaults((round(size[0] * factor), round(size[1] * factor)), device=recipe.device, **network)


def evaluation_interval(iterations: int, evaluations: int) -> int:
    """The number of iterations between about so many evaluations, which divides `iterations`."""
    wanted = max(iterations // max(evaluations, 1), 1)
    return min((d for d in range(1, iterations + 1) if iterations % d == 0), key=lambda d: abs(d - wanted))


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
    model = build_segmenter(recipe, len(data.classes))
    if recipe.weights and fresh:
        load_backbone_or_all(model, recipe.weights, data.classes, log)
    return SegmentModule(model, recipe, data, build_loss(recipe, data))


def build_segmenter(recipe: SegmentRecipe, num_classes: int) -> Segmenter:
    """Returns the segmenter that the recipe, a resolved one, describes."""
    model = segmenter(recipe.head, build_network(recipe), num_classes, head_args=head_args(recipe))
    model.aux_weight = recipe.aux_weight
    return model


def build_loss(recipe: SegmentRecipe, data: SegmentData) -> SegmentationLoss:
    """The loss that the recipe describes."""
    weights = None
    if recipe.class_weights:
        weights = median_frequency_weights(torch.from_numpy(data.use.pixels), recipe.class_weight_power)
    return SegmentationLoss(focal_gamma=recipe.focal_gamma, dice_weight=recipe.dice_weight, class_weights=weights)
