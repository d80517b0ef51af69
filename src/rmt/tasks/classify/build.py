"""A classification recipe made ready to train: what it leaves open is filled in, data opened, network built."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from rmt.errors import RMTError
from rmt.model import create_model, describe_weights, load_checkpoint
from rmt.recipes.recipe import ClassifyRecipe
from rmt.tasks.classify.data import ClassifyData, class_weights
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.token_labelling.module import TokenLabelModule
from rmt.training.initial_weights import other_classes, resolve_model
from rmt.training.optimizers import peak_lr
from rmt.training.task import Log


def resolve(recipe: ClassifyRecipe) -> ClassifyRecipe:
    """The recipe with `model="auto"` and zeros that ask for a choice replaced by what they come to on this machine.

    - model: see `resolve_model`;
    - image_size: that of the weights, if they are a classifier's of ours; else 224, and 96 for rmt_pico;
    - lr and layer_decay: 5e-4 and 0.75 to adapt trained weights gently, 2e-3 and 1 to learn from scratch.
    """
    if not recipe.data:
        raise RMTError("--data is missing: a folder with one folder of images per class, e.g. --data photos")
    recipe = resolve_model(recipe)
    if not recipe.image_size:
        own = _classifier(recipe.weights)
        size = own["preprocessing"]["size"][0] if own else 96 if recipe.model == "rmt_pico" else 224
        recipe = replace(recipe, image_size=int(size))
    if not recipe.lr:
        recipe = replace(recipe, lr=5e-4 if recipe.weights else 2e-3)
    if not recipe.layer_decay:
        recipe = replace(recipe, layer_decay=0.75 if recipe.weights else 1.0)
    return recipe


def build(recipe: ClassifyRecipe, *, fresh: bool, log: Log) -> ClassifyModule:
    """See `Task.build`."""
    model = create_model(recipe.model, drop_path_rate=recipe.drop_path)
    data = ClassifyData.open(recipe, model.pretrained_cfg)
    model.reset_classifier(len(data.classes))
    if recipe.weights and fresh:
        load_initial_weights(model, recipe.weights, data.classes, log=log)
    recipe = replace(data.recipe, batch_size=data.batch_size)  # as it runs: never more than there are images
    recipe = resolve_length(recipe, data.batches_per_epoch // recipe.accumulate)
    weights = class_weights(data.train.labels, len(data.classes)) if recipe.class_weights else None
    kind = TokenLabelModule if recipe.token_labels else ClassifyModule
    return kind(model, recipe, data, lr=peak_lr(recipe), class_weights=weights)


def resolve_length(recipe: ClassifyRecipe, updates_per_epoch: int) -> ClassifyRecipe:
    """The recipe with `epochs=0` replaced: as many as make about 1,500 updates, 500 from trained weights.

    At least 30, so that every image is seen often; at most 200, since a handful of images has no more to teach.
    """
    if recipe.epochs:
        return recipe
    updates = 500 if recipe.weights else 1500
    return replace(recipe, epochs=min(max(math.ceil(updates / updates_per_epoch), 30), 200))


def load_initial_weights(model: nn.Module, weights: str, classes: Sequence[str], log: Log) -> None:
    """Loads the weights a run starts from; a classifier for other classes is replaced by a fresh one, and that is said.

    Raises RMTError when the file is for another network.
    """
    kept = load_checkpoint(model, weights, new_head=True)
    own = _classifier(weights)
    if not kept and own is not None and other_classes(own, classes):  # as many, whose rows mean nothing here
        model.reset_classifier(len(classes))  # type: ignore[operator]
        kept = ["classifier"]
    if kept:
        before = f"{len(own['classes'])} other classes" if own is not None and own["classes"] else "others, or none"
        log(f"new classifier for {len(classes)} classes: the weights know {before}")


def _classifier(weights: str) -> dict[str, Any] | None:
    """What a classifier's file of ours says of itself; None for any other file, or none."""
    own = describe_weights(weights) if weights else None
    return own if own is not None and own["task"] == "classify" else None
