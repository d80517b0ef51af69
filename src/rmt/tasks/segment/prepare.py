"""A segmentation recipe made ready: what it leaves open, the data, the network, the weights to start from."""

from dataclasses import replace
from typing import Any

from rmt.errors import RMTError
from rmt.heads import Segmenter, load_model, segmenter
from rmt.model import create_model, read_metadata, resolve_checkpoint
from rmt.recipes.segment_schema import SegmentRecipe
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.module import SegmentModule
from rmt.tasks.task import Say
from rmt.training.machine import choose_device
from rmt.training.optimizer import peak_lr


def settle(recipe: SegmentRecipe) -> SegmentRecipe:
    """The recipe with `model="auto"` replaced: that of the weights, else rmt_tiny on a GPU and rmt_pico on a CPU."""
    if not recipe.data:
        raise RMTError("--data is missing: a folder with images/ and annotations/ (or masks/), and a class list")
    if recipe.model != "auto":
        return recipe
    if not recipe.weights:
        return replace(recipe, model="rmt_pico" if choose_device(recipe.device).type == "cpu" else "rmt_tiny")
    path = resolve_checkpoint(recipe.weights)
    if path.suffix != ".safetensors":
        raise RMTError(f"{recipe.weights} does not say which network it is for: name it, e.g. --model rmt_tiny")
    return replace(recipe, model=read_metadata(path)["model"])


def head_args(recipe: SegmentRecipe) -> dict[str, Any]:
    """The head's widths, where they are not its own."""
    width = recipe.head_width
    if not width:
        return {}
    if recipe.head == "semantic_fpn":
        return {"channels": width, "fpn_channels": 2 * width}
    return {"channels": width, "aux_channels": max(width // 2, 1)}


def prepare(recipe: SegmentRecipe, *, fresh: bool, say: Say) -> SegmentModule:
    """See `Task.prepare`."""
    backbone = create_model(recipe.model, drop_path_rate=recipe.drop_path)
    data = SegmentData.open(recipe, backbone.pretrained_cfg)
    model = segmenter(recipe.head, backbone, len(data.classes), head_args=head_args(recipe))
    model.aux_weight = recipe.aux_weight
    if recipe.weights and fresh:
        _start_from(model, recipe.weights, data.classes, say)
    return SegmentModule(model, recipe, data, lr=peak_lr(recipe))


def _start_from(model: Segmenter, weights: str, classes: tuple[str, ...], say: Say) -> None:
    """Loads a segmenter whole where it is the same one for the same classes, else the backbone (and its norms)."""
    path = resolve_checkpoint(weights)
    own = read_metadata(path) if path.suffix == ".safetensors" else None
    if own is not None and own["task"] == "segment" and tuple(own["classes"]) == classes:
        other, _ = load_model(path)
        state = model.state_dict()
        found = other.state_dict()
        if state.keys() == found.keys() and all(found[key].shape == value.shape for key, value in state.items()):
            model.load_state_dict(found)
            say(f"starting from the whole segmenter in {path}")
            return
    fresh = model.pyramid.load_official(weights)
    say(f"starting from the backbone in {weights}; the head{' and the pyramid norms are' if fresh else ' is'} new")
