"""Networks built from a name and keywords that a user or a file gives, with one-line errors for what does not fit."""

import inspect
import json
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import timm
import torch
from torch import nn

from rmt.errors import RMTError
from rmt.model.checkpoints import checked_args
from rmt.model.rmt import RMT
from rmt.model.state_dicts import one_line
from rmt.model.timm_networks import BUILD_ERRORS, create_timm_network, is_timm_network, size_arguments
from rmt.model.variants import ARCHITECTURES, build, list_models
from rmt.suggestions import suggest

PARAMETERS = inspect.signature(RMT).parameters
"""The keywords of the networks."""
_NOT_ARCHITECTURE = {"num_classes", "in_chans", "drop_path_rate", "img_size", "dynamic_img_size", "strict_img_size"}
_OF_THE_HEAD = {"head_hidden_dim", "head_norm", "aux_head", "global_pool", "drop_rate"}


def create_network(name: str, arguments: Mapping[str, Any], image_size: int | None = None) -> Any:
    """Network `name`, ours or timm's, with these keywords, randomly initialised.

    It does not go through `timm.create_model`, whose other keywords (`checkpoint_path`, `pretrained_cfg`, …) open files
    and which ignores a value of None.

    Args:
        image_size: side of the images, for those of timm's networks that are built for one; None: images of any size.
    Raises:
        RMTError: no such network or keyword, or values that describe no network.
    """
    check_name(name)
    if name not in ARCHITECTURES:
        return create_timm_network(name, dict(arguments) | size_arguments(name, image_size))
    _check_keywords(name, arguments)
    try:
        return build(name, **checked_args(arguments))
    except BUILD_ERRORS as error:
        raise RMTError(f"the arguments of {name} do not describe a network: {one_line(error)}") from error


def check_name(name: str) -> None:
    """Raise RMTError, with the nearest names, for a network that neither we nor timm have."""
    if name not in ARCHITECTURES and not is_timm_network(name):
        raise RMTError(f"no network named {name[:60]!r}: {suggest_names(name)}")


def suggest_names(name: str) -> str:
    """The names of networks, ours and timm's, that resemble an unknown one, as a question; without any, all of ours."""
    known = list(dict.fromkeys([*list_models(), *timm.list_models()]))
    return suggest(name, known, f"choose one of {', '.join(list_models())}, or of timm's")


def check_network(name: str, arguments: Mapping[str, Any]) -> None:
    """Raise RMTError unless `create_network` builds this and, if it is ours, takes images; needs no memory."""
    if name in ARCHITECTURES and not arguments:  # as it is registered; the tests build and run each of them
        return
    with torch.device("meta"), torch.no_grad():
        network = create_network(name, arguments)
        if name not in ARCHITECTURES:
            return
        try:
            network.eval()(torch.empty(1, network.in_chans, 64, 64))
        except BUILD_ERRORS as error:
            raise RMTError(f"the arguments of {name} describe a network that cannot run: {one_line(error)}") from error


def architecture_arguments(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords in a model file that describe the network: without classes, image channels and drop path."""
    return {
        key: value
        for key, value in metadata["model_args"].items()
        if key not in _NOT_ARCHITECTURE and (key, value) != ("global_pool", "avg")
    }


def compare_arguments(metadata: Mapping[str, Any], network: nn.Module) -> dict[str, tuple[Any, Any]]:
    """The arguments in which the network of a model file differs from `network`: name -> (file's, network's).

    Weights of equal shapes load in spite of them. Arguments of the head are left out.
    """
    if metadata["model"] not in ARCHITECTURES or not isinstance(network, RMT):
        return {}
    theirs = ARCHITECTURES[metadata["model"]] | metadata["model_args"]
    ours = ARCHITECTURES[network.pretrained_cfg["architecture"]] | network.model_args
    differences = {}
    for key, parameter in PARAMETERS.items():
        pair = theirs.get(key, parameter.default), ours.get(key, parameter.default)
        if key not in _NOT_ARCHITECTURE | _OF_THE_HEAD and json.dumps(pair[0]) != json.dumps(pair[1]):
            differences[key] = pair
    return differences


def _check_keywords(name: str, arguments: Mapping[str, Any]) -> None:
    """Compare names, types and numbers of entries with those of the network's constructor."""
    depths = arguments.get("depths", ARCHITECTURES[name].get("depths"))
    stages = len(depths) if isinstance(depths, list | tuple) else 4
    for key, value in arguments.items():
        if key not in PARAMETERS:
            hint = suggest(key, PARAMETERS, f"there are {', '.join(PARAMETERS)}")
            raise RMTError(f"{name} has no argument {key[:40]!r}: {hint}")
        kind = PARAMETERS[key].annotation
        given = [value]
        if Sequence in (get_origin(kind), *map(get_origin, get_args(kind))) and not isinstance(value, str):
            if not isinstance(value, list | tuple) or len(value) != stages:
                raise RMTError(
                    f"{key} of {name} needs a list of {stages} entries, one per stage, and is {str(value)[:40]}"
                )
            given = list(value)
            kind = get_args(next(k for k in (kind, *get_args(kind)) if get_origin(k) is Sequence))[0]
        for entry in given:
            if not _is(entry, kind) or (entry == 0 and kind is int and key != "num_classes"):
                raise RMTError(f"{key} of {name} needs {_described(kind)}, and is {str(entry)[:40]!r}")


def _is(value: Any, kind: Any) -> bool:
    """Whether a value, as JSON has it, is of an annotated type. Integers are numbers, and numbers are not negative."""
    if get_origin(kind) in (Union, UnionType):
        return any(_is(value, each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        kinds = get_args(kind)
        return isinstance(value, list | tuple) and len(value) == len(kinds) and all(map(_is, value, kinds))
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool) and value >= 0
    return isinstance(value, str if get_origin(kind) is Literal else kind)  # the network names the words there are


def _described(kind: Any) -> str:
    if get_origin(kind) in (Union, UnionType):
        return _described(get_args(kind)[0])
    words = {bool: "true or false", int: "a whole number above 0", float: "a number, 0 or above"}
    return words.get(kind, "a pair of numbers" if get_origin(kind) is tuple else "a word")
