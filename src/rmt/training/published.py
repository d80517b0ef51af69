"""A run beside the row of the paper's tables that its recipe reproduces, and what sets the run apart from it."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from rmt.recipes import RECIPES
from rmt.recipes.published import DATASETS, PUBLISHED, SCORES
from rmt.recipes.recipe import Recipe, option
from rmt.terminal import plural
from rmt.training.batch import effective_batch, resolve_ema_decay
from rmt.training.network import resolve_network

#: Fields that change with the machine, and those that are compared in another way: length, batch, data, weights.
_NOT_COMPARED = {
    *("name", "output", "seed", "device", "devices", "nodes", "strategy", "precision", "compile", "grad_checkpointing"),
    *("workers", "profile", "checkpoint_minutes", "on_nan", "stream", "stream_buffer", "validate_every"),
    *("epochs", "iterations", "batch_size", "accumulate", "effective_batch"),
    *(
        "data",
        "images",
        "annotations",
        "val_images",
        "val_annotations",
        "classes",
        "token_labels",
        "weights",
        "selection",
    ),
}

#: Fields that define the network: a run with another one has no published scores.
_NETWORK = ("model", "model_args", "head", "masks")


def compare_with_published(recipe: Recipe, *, classes: int, train: int, val: int) -> dict[str, Any] | None:
    """Returns the row of the paper for a resolved recipe, as JSON values; None for a recipe without one.

    Args:
        recipe: of the run; its name is that of a published row.
        classes, train, val: number of classes, of training images, and of the images that are evaluated.
    Returns:
        `table`, `scores` in percent (empty for a run with another network), `length` of the published run, and
        `differs`, what is different in this one.
    """
    row = PUBLISHED.get(recipe.name)
    if row is None or recipe.name not in RECIPES:
        return None
    original = resolve_network(RECIPES[recipe.name]())
    differs = []
    if recipe.task != original.task:
        return None
    ema = resolve_ema_decay(replace(recipe, ema_decay="auto")).ema_decay
    original = replace(original, ema_decay=ema if original.ema_decay == "auto" else original.ema_decay)
    for name in (field.name for field in fields(original)):
        theirs, ours = getattr(original, name), getattr(recipe, name)
        if ours != theirs and name not in _NOT_COMPARED and name not in original.open_fields():
            differs.append(_text(name, ours, theirs))
    batch, own_batch = original.effective_batch or original.lr_base_batch, effective_batch(recipe)
    if own_batch != batch:
        differs.append(f"effective batch {own_batch:,} instead of {batch:,}")
    data = DATASETS[recipe.task]
    for own, theirs, what in (
        (classes, data.classes, "class"),
        (train, data.train, "training image"),
        (val, data.val, "evaluated image"),
    ):
        if own != theirs:
            differs.append(f"{plural(own, what)} instead of the {theirs:,} of {data.name}")
    if recipe.task == "classify" and recipe.weights:
        differs.append("it starts from --weights")
    elif recipe.task != "classify" and not recipe.weights:
        differs.append("it starts without --weights of an ImageNet classifier")
    iterations = getattr(original, "iterations", 0)
    epochs = getattr(original, "epochs", 0)
    length = plural(iterations, "iteration") if iterations else plural(epochs, "epoch")
    same = all(getattr(recipe, name, None) == getattr(original, name, None) for name in _NETWORK)
    return {"table": row.table, "scores": row.scores if same else {}, "length": length, "differs": differs}


def published_rows(metrics: dict[str, Any], columns: Sequence[tuple[str, str, str]]) -> list[tuple[str, ...]]:
    """The published scores as a row of the table at the end of a run; none without them, see `summary_lines`."""
    if not (published := metrics.get("published")) or not published["scores"]:
        return []
    evaluated = columns[-1][1]  # the test images, where validation images are something else
    scores = [published["scores"].get(name) if split == evaluated else None for _, split, name in columns]
    return [(f"published, {published['table']}", *("–" if s is None else f"{s:.1f} %" for s in scores))]


def published_lines(metrics: dict[str, Any]) -> list[str]:
    """A line with the published scores and those of the run, and a line that says how the run differs."""
    if not (published := metrics.get("published")):
        return []
    names = [name for name in SCORES if name in published["scores"]]
    theirs = ", ".join(f"{published['scores'][name]} {SCORES[name]}" for name in names)
    best = "top1" in names  # that is published of the best epoch
    entry = metrics["best"] if best else metrics["last"]["raw"]
    split = "test" if best and "test" in entry else "val"
    ours = ", ".join(f"{entry[split][name]:.1f}" for name in names if name in entry[split])
    done = metrics.get("iterations", metrics["last"]["epoch"])
    lines = []
    if names:
        after = f"after {done:,} of {published['length']}"
        lines.append(f"published {theirs}{' (best epoch)' * best}, this run {ours} {after} ({published['table']})")
    if published["differs"]:
        lines.append(f"not the published run: {'; '.join(published['differs'])}")
    return lines


def _text(name: str, ours: Any, theirs: Any) -> str:
    if isinstance(ours, bool):
        return f"--{'' if ours else 'no-'}{option(name)}"
    values = (" ".join(map(str, value)) if isinstance(value, tuple) else str(value) or '""' for value in (ours, theirs))
    return f"--{option(name)} {' instead of '.join(values)}"
