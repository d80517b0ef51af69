"""A checkpoint carried over to epochs of another number of batches: other data, batch size, accumulation or devices.

The schedules are functions of the number of updates. A run that has done 2.5 epochs is therefore put at the update that
ends 2.5 epochs of the new length, with the same images seen, but for part of a batch.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

from rmt.errors import RMTError
from rmt.recipes.recipe import from_dict
from rmt.terminal import plural


class EpochLength(NamedTuple):
    """Batches of one device in an epoch, and of them in a weight update."""

    batches: int
    accumulate: int

    @classmethod
    def of(cls, state: dict[str, Any]) -> "EpochLength":
        """That of the run when it saved this checkpoint, by the length of its loader, cut to whole updates."""
        accumulate = from_dict(state["rmt"]["recipe"]).accumulate
        (loader,) = state["loops"]["fit_loop"]["state_dict"]["combined_loader"]
        return cls(loader["steps"] // accumulate * accumulate, accumulate)

    @property
    def updates(self) -> int:
        return self.batches // self.accumulate


def rescaled_update(update: int, before: EpochLength, now: EpochLength) -> int:
    """The update that is as many epochs from the start; one inside an epoch stays inside it."""
    epochs, inside = divmod(update, before.updates)
    return epochs * now.updates + _inside(inside, before, now)


def rescale_state(state: dict[str, Any], before: EpochLength, now: EpochLength) -> dict[str, Any]:
    """Changes the counters of Lightning's loops in a checkpoint in place, and returns it. Equal lengths change none.

    What the loader would compare with its own data and length is removed.

    Raises RMTError for a checkpoint inside an epoch whose new length is one update.
    """
    loop = state["loops"]["fit_loop"]
    (loader,) = loop["state_dict"]["combined_loader"]
    for name in ("samples", "steps"):
        loader.pop(name, None)
    if before == now:
        return state
    if now.updates < 2 and int(state["global_step"]) % before.updates:
        raise RMTError(
            "the run was stopped inside an epoch, and an epoch is a single update now: lower --batch-size or "
            "--accumulate"
        )
    scale_batches = _scaling(before.batches, now.batches, lambda n: _inside_batches(n, before, now))
    scale_updates = _scaling(before.updates, now.updates, lambda n: _inside(n, before, now))
    _rescale(loop["epoch_loop.batch_progress"], scale_batches, counted="processed")
    optimizer = loop["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]
    for progress in (optimizer["step"], optimizer["zero_grad"], loop["epoch_loop.scheduler_progress"]):
        _rescale(progress, scale_updates, counted="completed")
    loader["batches"] = scale_batches(loader["batches"])
    done = optimizer["step"]["total"]["completed"]
    counted = loop["epoch_loop.state_dict"]
    counted |= {name: value + done - state["global_step"] for name, value in counted.items()}  # for loggers
    state["global_step"] = done
    return state


def continue_schedule(
    recipe: Any, original: Any, state: dict[str, Any], before: EpochLength, now: EpochLength, log: Callable[[str], None]
) -> Any:
    """Puts a checkpoint of `original` at its place in the schedule of `recipe`, and logs what that changes.

    Args:
        recipe, original: of the run as it goes on, and of the checkpoint; both resolved.
        state: the checkpoint, whose counters are changed in place.
        before, now: the epochs of the checkpoint, and of the run as it goes on.
    Returns:
        the recipe; an update that it names is changed, too.
    Raises:
        RMTError: evaluations would move, or the run has done more than its new length already.
    """
    every = getattr(recipe, "validate_every", None)
    if every is not None and every != original.validate_every:
        raise RMTError(
            f"--validate-every {every}: the run was evaluated every {original.validate_every} iterations, which a "
            "resumed one cannot change; leave it out, or start a new run"
        )
    for name in ("epochs", "iterations"):
        length = getattr(recipe, name, None)
        if length is None or length == getattr(original, name):
            continue
        done = state["global_step"] // (before.updates if name == "epochs" else 1)
        if length < done:
            raise RMTError(f"--{name} {length}: the run has done {done} already; take at least as many")
        log(f"the learning rate goes on as in a run of {length:,} {name}")
    if before != now:
        update = int(state["global_step"])
        rescale_state(state, before, now)
        if before.updates != now.updates:
            log(
                f"an epoch has {plural(now.updates, 'update')} now, and had {before.updates:,}: update {update:,} "
                f"counts as {state['global_step']:,}, so that the learning rate stays on its schedule"
            )
        recipe = replace(recipe, restart_update=rescaled_update(recipe.restart_update, before, now))
    return recipe


def _inside(update: int, before: EpochLength, now: EpochLength) -> int:
    """An update inside an epoch: 0 stays 0, the last stays the last, and others stay between them."""
    if update in (0, before.updates):
        return now.updates if update else 0
    return min(max(round(update * now.updates / before.updates), 1), max(now.updates - 1, 0))


def _inside_batches(batch: int, before: EpochLength, now: EpochLength) -> int:
    return now.batches if batch == before.batches else _inside(batch // before.accumulate, before, now) * now.accumulate


def _scaling(before: int, now: int, inside: Callable[[int], int]) -> Callable[[int], int]:
    def scale(count: int) -> int:
        epochs, rest = divmod(count, before)
        return epochs * now + inside(rest)

    return scale


def _rescale(progress: dict[str, Any], scale: Callable[[int], int], counted: str) -> None:
    """Counters that were saved inside a step are ahead of others by one: they stay so."""
    for counters in (progress["total"], progress["current"]):
        known = counters[counted]
        ahead = {name: value - known for name, value in counters.items()}
        counters |= {name: scale(known) + more for name, more in ahead.items()}
