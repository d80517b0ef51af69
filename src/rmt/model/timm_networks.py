"""Networks of timm that are not ours: built from a name and keywords, and loaded from local files of timm's weights."""

import inspect
import sys
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model.state_dicts import check_fit, one_line
from rmt.suggestions import suggest

BUILD_ERRORS = (TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError, LookupError, AttributeError)
"""What constructors raise for arguments that describe no network."""
_OF_FILES = ("pretrained", "checkpoint_path", "cache_dir", "features_only", "feature_cfg", "kwargs_filter")


def is_timm_network(name: str) -> bool:
    """Whether timm has a network of this name, with or without the tag of its weights; names of a hub are none."""
    if set(name) & {":", "/"} or not timm.is_model(name):
        return False
    try:
        return timm.get_pretrained_cfg(name) is not None
    except RuntimeError:  # no such tag
        return False


def network_name(network: nn.Module) -> str:
    """The name under which timm built the network, otherwise that of its class."""
    return (getattr(network, "pretrained_cfg", None) or {}).get("architecture", type(network).__name__)


def create_timm_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Network `name` of timm with these keywords of its constructor, randomly initialised.

    A drop path of 0 is left out for networks that have none. No keyword opens a file.

    Raises:
        RMTError: a keyword that the network does not have, or values that describe no network.
    """
    entrypoint = model_entrypoint(name.partition(".")[0])
    if unsafe := [key for key in arguments if key.startswith(_OF_FILES)]:
        raise RMTError(f"{name}: {unsafe[0][:40]} is not an argument of the architecture")
    try:
        network = entrypoint(pretrained=False, **arguments)
    except BUILD_ERRORS as error:
        if "drop_path_rate" in str(error) and arguments.get("drop_path_rate") == 0:
            return create_timm_network(name, {k: v for k, v in arguments.items() if k != "drop_path_rate"})
        raise RMTError(_explain(name, arguments, error)) from error
    network.model_args = dict(arguments)
    return network


def size_arguments(name: str, image_size: int | None) -> dict[str, Any]:
    """The keywords with which a timm network takes images of this side; None: images of any size."""
    known = inspect.signature(_class_of(name)).parameters
    if image_size:
        return {"img_size": image_size} if "img_size" in known else {}
    if "dynamic_img_size" in known:
        return {"dynamic_img_size": True}
    return {"strict_img_size": False} if "strict_img_size" in known else {}


def require_size(network: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Raise RMTError unless the network takes images of this height and width; needs a forward pass in eval mode."""
    training, device = network.training, next(network.parameters()).device
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, *size, device=device))
    except BUILD_ERRORS as error:
        raise _not_taken(name, size, error) from error
    network.train(training)


def resize(network: Any, name: str, size: tuple[int, int]) -> None:
    """Let a network with weights take images of this height and width, by timm's `set_input_size` where it has one.

    Raises:
        RMTError: the network, or its weights, are for images of another size.
    """
    try:
        if hasattr(network, "set_input_size"):
            network.set_input_size(img_size=size)
    except BUILD_ERRORS as error:
        raise _not_taken(name, size, error) from error
    require_size(network, name, size)


def use_running_statistics(network: nn.Module) -> None:
    """Put the BatchNorms in eval mode: they do not update their statistics. `train()` undoes it."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def load_timm_weights(network: nn.Module, state: Mapping[str, Tensor], name: str, *, new_head: bool) -> list[str]:
    """Load the tensors of one of timm's files, called `name` in messages.

    Names of earlier versions and weights of other image sizes are adapted as timm does it. See `load_official`.
    """
    own = network.state_dict()
    heads = network.pretrained_cfg.get("classifier") or ()  # type: ignore[union-attr, operator]
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))
    adapt = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
    try:
        found = dict(adapt(dict(state), network) if adapt else state)
    except (*BUILD_ERRORS, NotImplementedError) as error:
        raise RMTError(f"{name} does not fit the network: {one_line(error)}") from error
    optional = []
    if new_head or not any(key.startswith(prefixes) for key in own):
        found = {
            key: value
            for key, value in found.items()
            if not key.startswith(prefixes) or (key in own and own[key].shape == value.shape)
        }
        optional = [key for key in own if key.startswith(prefixes) and key not in found]
    if not any(key.startswith(prefixes) for key in own):  # a pyramid's backbone: layers above its last level are gone
        parts = {key.partition(".")[0] for key in own}
        found = {key: value for key, value in found.items() if key.partition(".")[0] in parts}
    check_fit(own, found, name, optional=optional)
    network.load_state_dict({key: found.get(key, value) for key, value in own.items()})
    return optional


def _class_of(name: str) -> type:
    with torch.device("meta"):
        return type(model_entrypoint(name.partition(".")[0])(pretrained=False))


def _not_taken(name: str, size: tuple[int, int], error: Exception) -> RMTError:
    sides = " ".join(map(str, dict.fromkeys(size)))  # one number for squares, as users give it
    return RMTError(f"--image-size {sides}: {name} does not take it: {one_line(error)}")


def _explain(name: str, arguments: Mapping[str, Any], error: Exception) -> str:
    """One line for what the constructor raised, with the nearest keywords for one that it does not have."""
    if "multiple values for keyword argument" in str(error):
        return f"{name} does not let its arguments be changed: {one_line(error).rpartition(' ')[2]} is part of its name"
    if "unexpected keyword argument" not in str(error):
        return f"the arguments of {name} do not describe a network: {one_line(error)}"
    key = next((key for key in arguments if f"'{key}'" in str(error)), "")
    if key == "drop_path_rate":
        return f"{name} has no drop path: leave --drop-path at 0"
    known = inspect.signature(_class_of(name)).parameters
    return f"{name} has no argument {key[:40]!r}: {suggest(key, known, 'there are ' + ', '.join(known))}"
