"""Which of our networks a state dict belongs to, and that network with the state dict in it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rmt.errors import RMTError
from rmt.model.checkpoints import load_official
from rmt.model.rmt import RMT
from rmt.model.variants import create_model, list_models


def identify(state: Mapping[str, Tensor], name: str = "the checkpoint") -> str:
    """The registered name whose backbone has exactly the names and shapes of `state` (under our names).

    Raises:
        RMTError: none has.
    """
    shapes = _backbone_shapes(state)
    for candidate in list_models():
        network = create_model(candidate, device="meta", **_arguments(state))
        same_heads = (network.aux_head is not None) == ("aux_head.weight" in state)
        if same_heads and _backbone_shapes(network.state_dict()) == shapes:
            return candidate
    raise RMTError(f"{name} fits none of {', '.join(list_models())}")


def build_for(model_name: str, state: Mapping[str, Tensor], name: str = "the checkpoint") -> RMT:
    """Network `model_name` with the weights of `state`, its classes and input channels as the weights have them."""
    network = create_model(model_name, **_arguments(state))
    if "head.fc.weight" not in state:
        network.prune_intermediate_layers([len(network.stages) - 1])
    load_official(network, state)
    return network


def _backbone_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value.shape)
        for key, value in state.items()
        if key.startswith(("stem.", "stages.")) and not key.endswith("num_batches_tracked")
    }


def _arguments(state: Mapping[str, Tensor]) -> dict[str, Any]:
    arguments: dict[str, Any] = {"num_classes": state["head.fc.weight"].shape[0]} if "head.fc.weight" in state else {}
    stem = state.get("stem.0.weight", state.get("stem.proj.weight"))
    if isinstance(stem, torch.Tensor) and stem.ndim == 4 and stem.shape[1] <= 1024:
        arguments["in_chans"] = stem.shape[1]
    return arguments
