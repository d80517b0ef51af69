"""The contents of a checkpoint, checked before a run is built from it: a file may have been written by anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from rmt.errors import RMTError
from rmt.recipes.recipe import from_dict
from rmt.terminal import plural
from rmt.training.progress import Progress
from rmt.training.rescale import EpochLength

_LOOP = "epoch_loop."
_COUNTERS = (
    f"{_LOOP}batch_progress",
    f"{_LOOP}scheduler_progress",
    f"{_LOOP}automatic_optimization.optim_progress",
    "epoch_progress",
)
_MOST = 2**53


def check_state(state: Any, path: Path) -> dict[str, Any]:
    """Returns the content of a checkpoint. Raises RMTError that names what is missing or cannot be."""
    try:
        _check(state)
        recipe = from_dict(state["rmt"]["recipe"])
        if recipe.accumulate < 1 or EpochLength.of(state).updates < 1:
            raise ValueError("an epoch of its run has no update")
        Progress.from_state_dict(state["rmt"]["progress"])
    except KeyError as error:
        raise _refused(path, f"it has no {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise _refused(path, str(error)) from error
    return state


def _check(state: Any) -> None:
    """Raises KeyError for what is missing, and ValueError for what cannot be."""
    own = _mapping(state, "the checkpoint")
    run = _mapping(own["rmt"], "rmt")
    _mapping(run["recipe"], "recipe")
    _mapping(run["progress"], "progress")
    if not isinstance(run.get("folder", ""), str):
        raise ValueError("folder is no text")
    step = _count(own["global_step"], "global_step")
    _count(own["epoch"], "epoch")
    if not all(isinstance(value, torch.Tensor) for value in _mapping(own["state_dict"], "state_dict").values()):
        raise ValueError("state_dict has other values than tensors")
    loop = _mapping(_mapping(own["loops"], "loops")["fit_loop"], "fit_loop")
    for name in _COUNTERS:
        _check_counters(_mapping(loop[name], name), name)
    taken = loop[_COUNTERS[2]]["optimizer"]["step"]["total"]["completed"]
    if taken != step:
        raise ValueError(f"global_step is {step}, but {plural(taken, 'update')} counted")
    loaders = _mapping(loop["state_dict"], "the loop's state_dict")["combined_loader"]
    if len(_list(loaders, "combined_loader")) != 1:
        raise ValueError("combined_loader is not that of one loader")
    for name in ("epoch", "batches", "samples", "steps"):
        _count(_mapping(loaders[0], "combined_loader")[name], f"combined_loader's {name}")
    _list(own["lr_schedulers"], "lr_schedulers")
    if len(_list(own["optimizer_states"], "optimizer_states")) != 1:
        raise ValueError("optimizer_states are not those of one optimiser")
    for optimizer in own["optimizer_states"]:
        _check_optimizer(_mapping(optimizer, "optimizer_states"), step)


def _check_optimizer(optimizer: Mapping[str, Any], step: int) -> None:
    groups = _list(optimizer["param_groups"], "param_groups")
    if not groups or not all(isinstance(group, Mapping) and "params" in group and "lr" in group for group in groups):
        raise ValueError("param_groups are not those of an optimiser")
    if step and not _mapping(optimizer["state"], "the optimiser's state"):
        raise ValueError(f"the optimiser has no state after {plural(step, 'update')}")


def _check_counters(counters: Any, name: str) -> None:
    """Every number below is a count."""
    if isinstance(counters, Mapping):
        for key, value in counters.items():
            _check_counters(value, f"{name}.{key}")
    elif not isinstance(counters, bool):
        _count(counters, name)


def _count(value: Any, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MOST:
        raise ValueError(f"{name} is {str(value)[:40]}, not a count")
    return value


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is a {type(value).__name__}, not a dict")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} is a {type(value).__name__}, not a list")
    return value


def _refused(path: Path, reason: str) -> RMTError:
    return RMTError(f"{path} is not the checkpoint of a run: {' '.join(reason.split())[:200]}")
