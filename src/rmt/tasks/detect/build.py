"""A detection recipe resolved, and its detector and module built."""

import math
from dataclasses import fields, replace
from typing import Any

from timm.models import get_pretrained_cfg

from rmt.heads import detector
from rmt.heads.detection import MaskRCNN, RetinaNet
from rmt.recipes import DetectRecipe
from rmt.recipes.recipe import AUTO
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.defaults import ObjectStatistics, detect_defaults
from rmt.tasks.detect.module import DetectModule
from rmt.training.batch import require_images, world_size
from rmt.training.network import build_network, feature_channels, load_backbone_or_all
from rmt.training.task import Log

_UPDATES = 2000  # of a run whose recipe leaves its epochs open
_MAX_WARMUP = 0.1  # of the updates
_BATCH = 4
_PRE_NMS, _TEST_PROPOSALS = 2000, 1000


def resolve(recipe: DetectRecipe, data: DetectData) -> DetectRecipe:
    """Fills in what depends on the data. See `Task.resolve`.

    - masks: as the data were opened, see `DetectData.open`;
    - metric: the box AP;
    - network sizes, image sizes, learning rate: see `detect_defaults`;
    - batch_size: 4, but at most the training images of one device;
    - epochs: as many as make about 2,000 updates, at least 12; with lr_steps at 8/12 and 11/12 of them, as in 1x.
    """
    recipe = fill_defaults(recipe, data).fill_open(epoch_repeats=1.0, metric="box_ap")
    if not recipe.epochs and not recipe.lr_steps:
        recipe = replace(recipe, lr_steps=AUTO)
    recipe = replace(recipe, batch_size=max(min(recipe.batch_size, len(data.train) // world_size(recipe)), 1))
    require_images(recipe, len(data.train))
    updates = data.batches_per_epoch(recipe) // recipe.accumulate
    epochs = recipe.epochs or max(math.ceil(_UPDATES / updates), 12)
    defaults = _defaults(recipe, data)
    warmup = min(int(epochs * updates * _MAX_WARMUP), defaults["warmup_iterations"])
    recipe = replace(recipe, epochs=epochs)
    if recipe.warmup_iterations != AUTO and recipe.warmup_iterations >= epochs * updates:
        recipe = replace(recipe, warmup_iterations=warmup)
    return replace(recipe, lr_steps=recipe.step_epochs()).fill_open(warmup_iterations=warmup)


def fill_defaults(recipe: DetectRecipe, data: DetectData, short_side: int = 0) -> DetectRecipe:
    """Returns the recipe with all but its length and warm-up filled in, see `detect_defaults`.

    The network must be known. `short_side`: of the images, if it is open, instead of the default.
    """
    recipe = recipe.fill_open(masks=data.train.with_masks)
    unused: set[str] = set()
    if recipe.head == "retinanet":
        unused = {"head_width", "box_width", "rois_per_image", "proposals"}
    elif recipe.head == "mask_rcnn" and not recipe.masks:
        unused = {"head_convs", "head_width"}
    values = _defaults(recipe, data, short_side) | dict(batch_size=_BATCH)
    values |= {field.name: field.default for field in fields(DetectRecipe) if field.name in unused}
    return recipe.fill_open(**{key: value for key, value in values.items() if key != "warmup_iterations"})


def _defaults(recipe: DetectRecipe, data: DetectData, short_side: int = 0) -> dict[str, Any]:
    return detect_defaults(
        ObjectStatistics.of(data.train),
        head=recipe.head,
        channels=feature_channels(recipe)[-1],
        device=recipe.device,
        from_weights=bool(recipe.weights),
        short=short_side if recipe.is_open("short_side") else recipe.short_side,
    )


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
    network: Any = get_pretrained_cfg(recipe.model)
    options: dict[str, Any] = {"fpn_channels": recipe.fpn_channels}
    options |= {"image_mean": tuple(network.mean), "image_std": tuple(network.std)}
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
