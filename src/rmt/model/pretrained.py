"""timm's `pretrained=True` for our networks: weights in this package, or from where the user says."""

from collections.abc import Mapping
from typing import Any, cast

from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model.checkpoints import resolve_checkpoint
from rmt.model.shipped import SHIPPED, shipped_weights
from rmt.model.state_dicts import (
    CLASSIFIERS,
    FIRST_RELEASE,
    HEAD,
    check_fit,
    from_official,
    is_first_release,
    read_state_dict,
    sizes_of,
    unwrap,
)

AUTHORS = "https://github.com/qhfan/RMT"


def complete_pretrained_cfg(
    model_name: str, cfg: Any, overlay: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Complete `pretrained_cfg_overlay` by the tensors of its file and their numbers of classes and input channels.

    timm is given the tensors, not the path: its own reader knows other wrappings, and a classifier of another size than
    announced would silently stay random. A folder or repository of the Hugging Face hub (`local-dir:`, `hf-hub:`) is
    left to timm.

    Returns:
        the overlay, and the keywords of the network that the file is for, where these are not the named network's.
    Raises:
        RMTError: none was given, and the package has none: the authors' weights have no licence that allows it.
    """
    registered = cast(PretrainedCfg, get_pretrained_cfg(model_name)).to_dict()
    given = {**(cfg if isinstance(cfg, Mapping) else getattr(cfg, "__dict__", registered)), **overlay}
    if given.get("source") in ("local-dir", "hf-hub"):  # a user's, with a description of the network
        return overlay, {}
    file = given.get("file") or (None if given.get("url") or given.get("hf_hub_id") else shipped_weights(model_name))
    if given.get("state_dict"):
        state = unwrap(given["state_dict"])
    elif file:
        overlay["file"] = str(resolve_checkpoint(file))
        state = read_state_dict(overlay["file"])
    else:
        raise RMTError(
            f"pretrained=True: no weights of {model_name} can be downloaded, and the package has those of"
            f" {', '.join(SHIPPED)} alone; the authors link theirs at {AUTHORS}. With"
            f" such a file: timm.create_model({model_name!r}, pretrained=True, pretrained_cfg_overlay=dict(file=PATH))"
        )
    overlay["state_dict"] = state
    sizes = sizes_of(from_official(state))
    if "num_classes" in sizes:
        overlay["num_classes"] = sizes["num_classes"]
    if "in_chans" in sizes:
        overlay["input_size"] = (sizes["in_chans"], *(given.get("input_size") or registered["input_size"])[1:])
    return overlay, FIRST_RELEASE if is_first_release(state) else {}


def filter_state_dict(
    state: Mapping[str, Tensor], model: nn.Module, headless: bool = False, name: str = "the checkpoint"
) -> dict[str, Tensor]:
    """timm's `pretrained_filter_fn`: rename the authors' keys to ours and check them against `model`.

    Classifiers and the first convolution are not checked: timm leaves out a classifier for another number of classes
    and adapts the first convolution to `in_chans`.

    Args:
        headless: the network is built with `features_only`, so the file needs no head.
    """
    state = from_official(unwrap(state, name=name))
    own = model.state_dict()
    if headless:  # timm removes the head after loading, so its values do not matter
        state = {key: value for key, value in state.items() if not HEAD.match(key)}
        state |= {key: value for key, value in own.items() if HEAD.match(key)}
    elif model.num_classes and not all(key in state for key in own if key.startswith("head.fc.")):
        raise RMTError(f"{name} has no classifier; pass features_only=True or num_classes=0")
    first_conv = "stem.0.weight" if "stem.0.weight" in own else "stem.proj.weight"
    adapted = {key for key in [*own, *state] if CLASSIFIERS.match(key)} | {first_conv}  # timm adapts these afterwards
    check_fit(
        {key: value for key, value in own.items() if key not in adapted},
        {key: value for key, value in state.items() if key not in adapted},
        name,
    )
    return state
