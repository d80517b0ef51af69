"""A segmentation recipe made ready: what it leaves open, the data, the network, the weights to start from."""

from typing import Any

from rmt.errors import RMTError
from rmt.heads import segmenter
from rmt.model import create_model
from rmt.recipes.segment_recipe import SegmentRecipe
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.module import SegmentModule
from rmt.training.initial_weights import load_backbone_or_all, resolve_model
from rmt.training.optimizers import peak_lr
from rmt.training.task import Log


def resolve(recipe: SegmentRecipe) -> SegmentRecipe:
    """The recipe with `model="auto"` replaced, see `resolve_model`."""
    if not recipe.data:
        raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
    return resolve_model(recipe)


def head_args(recipe: SegmentRecipe) -> dict[str, Any]:
    """The head's widths, where they are not its own."""
    width = recipe.head_width
    if not width:
        return {}
    if recipe.head == "semantic_fpn":
        return {"channels": width, "fpn_channels": 2 * width}
    return {"channels": width, "aux_channels": max(width // 2, 1)}


def build(recipe: SegmentRecipe, *, fresh: bool, log: Log) -> SegmentModule:
    """See `Task.build`."""
    backbone = create_model(recipe.model, drop_path_rate=recipe.drop_path)
    data = SegmentData.open(recipe, backbone.pretrained_cfg)
    model = segmenter(recipe.head, backbone, len(data.classes), head_args=head_args(recipe))
    model.aux_weight = recipe.aux_weight
    if recipe.weights and fresh:
        load_backbone_or_all(model, recipe.weights, data.classes, log)
    return SegmentModule(model, recipe, data, lr=peak_lr(recipe))
