"""The effective batch: the images of one weight update, and how devices and steps share them."""

from dataclasses import replace
from typing import TypeVar

from rmt.errors import RMTError
from rmt.recipes.recipe import Recipe
from rmt.terminal import plural

_LARGEST = 32  # images per step, when the recipe leaves them open and says an effective batch
R = TypeVar("R", bound=Recipe)


def world_size(recipe: Recipe) -> int:
    """Number of processes of the run, one per device, on all machines. The recipe's devices must be resolved."""
    assert recipe.devices != "auto"
    return recipe.devices * max(recipe.nodes, 1)


def effective_batch(recipe: Recipe) -> int:
    """Images per weight update: devices x batch x accumulation. The recipe's devices must be resolved."""
    return world_size(recipe) * recipe.batch_size * recipe.accumulate


def peak_lr(recipe: Recipe) -> float:
    """The peak learning rate, scaled linearly with the effective batch."""
    return recipe.lr * effective_batch(recipe) / recipe.lr_base_batch if recipe.lr_base_batch else recipe.lr


def describe_batch(recipe: Recipe) -> str:
    """The effective batch and its factors, as text."""
    devices = plural(world_size(recipe), "device")
    return (
        f"effective batch {devices} x {recipe.batch_size} x {recipe.accumulate} accumulated = {effective_batch(recipe)}"
    )


def share_batch(recipe: R) -> R:
    """Returns the recipe with the `batch_size` and `accumulate` that make its `effective_batch` on its devices.

    A device takes at most `batch_size` images at once and accumulates the rest of its share. Raises RMTError when equal
    shares and whole steps do not make that batch, or a recipe that mixes pairs has odd shares.
    """
    if not recipe.effective_batch:
        return recipe
    devices = world_size(recipe)
    share, left_over = divmod(recipe.effective_batch, devices)
    if left_over:
        raise RMTError(
            f"--effective-batch {recipe.effective_batch} cannot be divided evenly among {devices} devices: take a "
            "number of devices that divides it, another effective batch, or 0 to leave it to --batch-size"
        )
    given = (
        f"--effective-batch {recipe.effective_batch} on {plural(devices, 'device')} is {plural(share, 'image')} each"
    )
    pair = 2 if recipe.mixes_pairs else 1
    if share % pair:
        raise RMTError(f"{given}, and Mixup and CutMix need an even number: change one, or take --mixup 0 --cutmix 0")
    if recipe.is_open("batch_size"):
        divisors = [size for size in range(pair, min(share, _LARGEST) + 1, pair) if share % size == 0]
        recipe = replace(recipe, batch_size=max(divisors))
    batch = min(recipe.batch_size, share)
    accumulate = recipe.accumulate if recipe.accumulate > 1 else share // batch
    if batch * accumulate != share:
        steps = f" x --accumulate {accumulate}" if recipe.accumulate > 1 else ""
        raise RMTError(f"{given}, which --batch-size {batch}{steps} does not make: change one, or --effective-batch 0")
    return replace(recipe, batch_size=batch, accumulate=accumulate)


def resolve_ema_decay(recipe: R) -> R:
    """Returns the recipe with an EMA decay of "auto" filled in: 0.99996^(B/512) for an effective batch of B images.

    That is the decay of the authors' released trainer: the average covers the same number of images for every B.
    """
    if recipe.ema_decay != "auto":
        return recipe
    return replace(recipe, ema_decay=0.99996 ** (effective_batch(recipe) / 512))


def require_images(recipe: Recipe, images: int) -> None:
    """Raises RMTError when one weight update takes more images than there are to train on."""
    # A batch that is larger than the data has been reduced, but an explicit effective batch stays as it is.
    needed = recipe.effective_batch or effective_batch(recipe)
    if needed <= images:
        return
    how = "--effective-batch" if recipe.effective_batch else "devices x --batch-size x --accumulate"
    remedy = "--effective-batch" if recipe.effective_batch else "--accumulate or --batch-size"
    raise RMTError(
        f"one update takes {plural(needed, 'image')} ({how}), with only {images:,} to train on: lower {remedy}"
    )
