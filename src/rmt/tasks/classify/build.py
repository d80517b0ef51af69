"""A classification recipe resolved, and its network and module built."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from rmt.errors import RMTError
from rmt.model import RMT, describe_weights, load_checkpoint
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify import small_images
from rmt.tasks.classify.data import ClassifyData, class_weights
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.token_labelling.module import TokenLabelModule
from rmt.terminal import plural
from rmt.training.batch import require_images, world_size
from rmt.training.network import build_network, log_other_arguments, other_classes
from rmt.training.task import Log

_OTHERWISE = dict(optimizer="adamw", batch_size=32, crop_padding=0, randaugment="rand-m5-mstd0.5-inc1", crop_pct=0.875)
_SIDES = {"rmt_pico": 96, "rmt_micro": 64, "rmt_nano": 32}  # others: 224
_MAX_WARMUP = 5.0  # epochs
_MAX_COOLDOWN = 10


def resolve(recipe: ClassifyRecipe, data: ClassifyData) -> ClassifyRecipe:
    """Fills in what depends on the weights to start from, and on the data. See `Task.resolve`.

    - metric: macro recall if the classes are unbalanced or weighted, else top-1;
    - image_size: that of the weights, if they are a classifier's of ours; else 224, 96 for rmt_pico, 64 for rmt_micro,
      32 for rmt_nano;
    - loader: tensor, unless the recipe needs Pillow;
    - optimizer and augmentation: AdamW and mild RandAugment; `small_images.settings` for rmt_nano and rmt_micro from
      scratch, unless another optimizer than Muon is given;
    - lr and layer_decay: 5e-4 and 0.75 to fine-tune trained weights, 2e-3 and 1 to train from scratch;
    - batch_size: 32, but at most the training images of one device (an even number, for Mixup, which mixes pairs);
    - random_erasing: `small_images.ERASED` for the same from scratch in `ERASING_PASSES` or more, else none;
    - epochs: see `default_epochs`; a tenth of them, at most 5, for the warm-up.
    """
    if recipe.balanced_sampling and data.stream == "yes":
        raise RMTError("--balanced-sampling needs all images at hand: take --stream no, or --class-weights instead")
    own = None if recipe.image_size else _classifier(recipe.weights)
    size = recipe.image_size or (own["preprocessing"]["size"][0] if own else _SIDES.get(recipe.model, 224))
    by_muon = small_images.suit(recipe, recipe.model)
    if by_muon:
        recipe = recipe.fill_open(batch_size=small_images.BATCH)
        recipe = recipe.fill_open(**small_images.settings(size, recipe.batch_size))
    recipe = recipe.fill_open(**_OTHERWISE, clip_grad=0.0)
    needs_pillow = recipe.token_labels or recipe.pad_to or recipe.crop_padding
    recipe = recipe.fill_open(loader="pillow" if needs_pillow else "tensor")
    batch = min(recipe.batch_size, len(data.train) // world_size(recipe))
    recipe = replace(
        recipe,
        stream=data.stream,
        metric=default_metric(recipe, data.train.labels) if recipe.metric == "auto" else recipe.metric,
        epoch_repeats=1.0 if recipe.is_open("epoch_repeats") else recipe.epoch_repeats,
        image_size=int(size),
        lr=recipe.lr or (5e-4 if recipe.weights else 2e-3),
        layer_decay=recipe.layer_decay or (0.75 if recipe.weights else 1.0),
        batch_size=batch - batch % 2 if batch > 1 and recipe.mixes_pairs else batch,
    )
    require_images(recipe, len(data.train))
    updates = data.batches_per_epoch(recipe) // recipe.accumulate
    recipe = replace(recipe, epochs=recipe.epochs or default_epochs(updates, from_scratch=not recipe.weights))
    many = by_muon and recipe.epochs * recipe.epoch_repeats >= small_images.ERASING_PASSES
    recipe = recipe.fill_open(random_erasing=small_images.ERASED if many else 0.0)
    return resolve_schedule(recipe)


def resolve_schedule(recipe: ClassifyRecipe) -> ClassifyRecipe:
    """Returns the recipe with warm-up and cool-down filled in, where it leaves them open.

    They are a tenth of the epochs, at most 5, and a thirtieth of them, at most 10; a warm-up that is longer than the
    run is replaced, too.
    """
    warmup, cooldown = min(recipe.epochs / 10, _MAX_WARMUP), min(recipe.epochs // 30, _MAX_COOLDOWN)
    if not recipe.is_open("warmup_epochs") and recipe.warmup_epochs > recipe.epochs:
        recipe = replace(recipe, warmup_epochs=warmup)
    return recipe.fill_open(warmup_epochs=warmup, cooldown_epochs=cooldown)


def default_metric(recipe: ClassifyRecipe, labels: np.ndarray) -> Literal["top1", "macro_recall"]:
    """The metric for labels (N,): "macro_recall" if the largest class has at least three times the smallest's images,
    or if the recipe gives the classes equal weight.

    A classifier that leaves small classes out has a good top-1 accuracy on such images.
    """
    if recipe.class_weights or recipe.balanced_sampling:
        return "macro_recall"
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return "macro_recall" if counts.max() >= 3 * counts.min() else "top1"


def default_epochs(updates_per_epoch: int, *, from_scratch: bool) -> int:
    """As many epochs as make about 1,500 updates, 500 from trained weights.

    At least 30, so that every image is seen often; at most 200, since a handful of images has no more to teach.
    """
    updates = 1500 if from_scratch else 500
    return min(max(math.ceil(updates / updates_per_epoch), 30), 200)


def build(recipe: ClassifyRecipe, data: ClassifyData, *, fresh: bool, log: Log) -> ClassifyModule:
    """See `Task.build`."""
    model = build_network(recipe, recipe.image_size)
    model.reset_classifier(len(data.classes))
    if recipe.weights and fresh:
        load_initial_weights(model, recipe.weights, data.classes, log=log)
    weights = class_weights(data.train.labels, len(data.classes)) if recipe.class_weights else None
    kind = TokenLabelModule if recipe.token_labels else ClassifyModule
    return kind(model, recipe, data, class_weights=weights)


def load_initial_weights(model: RMT, weights: str, classes: Sequence[str], log: Log) -> None:
    """Loads the weights a run starts from. Replaces and logs a classifier for other classes, randomly initialised.

    Raises RMTError when the file is for another network.
    """
    kept = load_checkpoint(model, weights, new_head=True)
    log_other_arguments(describe_weights(weights), model, log)
    own = _classifier(weights)
    if not kept and own is not None and other_classes(own, classes):  # as many, whose rows mean nothing here
        model.reset_classifier(len(classes))
        kept = ["classifier"]
    if kept:
        log(f"new classifier for {plural(len(classes), 'class')} (the weights file has other classes or none)")


def _classifier(weights: str) -> dict[str, Any] | None:
    """What a classifier's file of ours says of itself; None for any other file, or none."""
    own = describe_weights(weights) if weights else None
    return own if own is not None and own["task"] == "classify" else None
