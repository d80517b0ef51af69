"""The effective batch: the images of one weight update, and how devices and steps share them."""

from dataclasses import replace
from typing import TypeVar

from rmt.errors import RMTError
from rmt.recipes.recipe import Recipe
from rmt.training.distributed.processes import world_size

R = TypeVar("R", bound=Recipe)


def effective_batch(recipe: Recipe, devices: int = 0) -> int:
    """Images per weight update: devices x batch x accumulation; `devices` are those of this run unless given."""
    return (devices or world_size()) * recipe.batch_size * recipe.accumulate


def batch_in_words(recipe: Recipe) -> str:
    """The effective batch and how it comes about."""
    devices = world_size()
    product = f"{devices} device{'s' if devices > 1 else ''} x {recipe.batch_size} x {recipe.accumulate} accumulated"
    return f"effective batch {product} = {effective_batch(recipe)}"


def settle_batch(recipe: R) -> R:
    """The recipe with the `batch_size` and `accumulate` that make its `effective_batch` on its devices.

    A device takes no more than `batch_size` at once, and accumulates the rest of its share. Of a recipe whose devices
    are settled. Raises RMTError where equal shares and whole steps do not make that batch.
    """
    if not recipe.effective_batch:
        return recipe
    assert recipe.devices != "auto"
    devices = recipe.devices * recipe.nodes
    share, left_over = divmod(recipe.effective_batch, devices)
    if left_over:
        raise RMTError(
            f"--effective-batch {recipe.effective_batch} has no equal shares for {devices} devices: take a number of "
            "devices that divides it, another effective batch, or 0 to leave it to --batch-size"
        )
    batch = min(recipe.batch_size, share)
    accumulate = recipe.accumulate if recipe.accumulate > 1 else share // batch
    if batch * accumulate != share:
        given = f" x --accumulate {accumulate}" if recipe.accumulate > 1 else ""
        raise RMTError(
            f"--effective-batch {recipe.effective_batch} on {devices} device{'s' if devices > 1 else ''} is {share} "
            f"images each, which --batch-size {batch}{given} does not make: change one, or --effective-batch 0"
        )
    return replace(recipe, batch_size=batch, accumulate=accumulate)


def refuse_large_batch(recipe: Recipe, batch_size: int, images: int) -> None:
    """Raises RMTError when an update takes more images than there are; `batch_size` is what a step takes of them."""
    # A batch that is larger than the set shrinks to it, but not where the recipe insists on its product.
    needed = recipe.effective_batch or world_size() * batch_size * recipe.accumulate
    if needed <= images:
        return
    how = "--effective-batch" if recipe.effective_batch else "devices x --batch-size x --accumulate"
    remedy = "--effective-batch" if recipe.effective_batch else "--accumulate or --batch-size"
    raise RMTError(f"one update takes {needed} images ({how}), but there are only {images} to train on: lower {remedy}")
