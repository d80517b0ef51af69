"""Networks rebuilt from weights on disk: of a model file, or of a state dict that belongs to a named network."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model.architecture import Architecture, read_architecture
from rmt.model.checkpoints import (
    building_from,
    checked_args,
    load_meta_model,
    load_official,
    read_metadata,
    resolve_checkpoint,
)
from rmt.model.networks import check_name
from rmt.model.rmt import RMT
from rmt.model.state_dicts import HEAD, check_fit, from_official
from rmt.model.timm_networks import create_timm_network
from rmt.model.variants import ARCHITECTURES, ARGUMENTS, build
from rmt.terminal import plural

ModelT = TypeVar("ModelT", bound=nn.Module)

MAX_BUFFERS = 2**27
"""Numbers in the buffers of a network from a file: timm's networks compute some that the file does not contain."""


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[RMT, dict[str, Any]]:
    """Rebuild the classifier of a model file or run folder, with its weights.

    Args:
        path: the file, a run folder, whose best weights are read, or the name of a network with weights in the package.
        device: where the network is put.
    Returns:
        the network in eval mode, and the metadata of the file. A file of a backbone gives a network without classifier.
    Raises:
        RMTError: no such file, a file of another task, or names and shapes that do not match.
    """

    def build_classifier(metadata: dict[str, Any], names: Collection[str]) -> RMT:
        model = rebuild(metadata["model"], metadata["model_args"])
        # Only a backbone, as `rmt convert` writes it for a detector's file.
        if isinstance(model, RMT) and not any(map(HEAD.match, names)):
            model.prune_intermediate_layers([len(model.stages) - 1])
        return model

    return load_model_file(path, device, build_classifier, ("classify",), "classifiers")


def load_model_file(
    path: str | Path,
    device: str | torch.device,
    build: Callable[[dict[str, Any], Collection[str]], ModelT],
    tasks: Collection[str],
    kind: str,
) -> tuple[ModelT, dict[str, Any]]:
    """Load the network of a model file or run folder.

    Shapes are compared before memory is allocated, so a file cannot ask for more than it contains.

    Args:
        build: builds the network from the metadata and the names of the weights.
        tasks, kind: the tasks whose files are accepted, and what their networks are called.
    Returns:
        the network in eval mode, and the metadata of the file.
    Raises:
        RMTError: no such file, one of another task, or names and shapes do not match.
    """
    path = resolve_checkpoint(path)
    metadata = read_metadata(path)
    if "exported" in metadata:
        raise RMTError(f"{path} is an exported file; this needs the model file that it was made of")
    if metadata["task"] not in tasks:
        raise RMTError(f"{path} is a model for the task {metadata['task']!r}; this call loads {kind}")
    state = safetensors.torch.load_file(path)
    with building_from(path):
        model = build(metadata, state.keys())
    check_fit(model.state_dict(), state, str(path))
    outputs = int(getattr(model, "num_classes", 0) or 0)
    if metadata["classes"] and outputs and len(metadata["classes"]) != outputs:
        raise RMTError(
            f"{path} names {plural(len(metadata['classes']), 'class')}, and its network has {plural(outputs, 'output')}"
        )
    if sum(buffer.numel() for buffer in model.buffers()) > MAX_BUFFERS:
        raise RMTError(f"{path} describes a network that needs tables of more than {MAX_BUFFERS:,} entries")
    if metadata["model"] in ARCHITECTURES:
        load_meta_model(model, state)
    else:  # timm's networks compute buffers that are not in the file
        model = build(metadata, state.keys())
        model.load_state_dict(state)
    return model.to(device).eval(), metadata


def rebuild(name: str, arguments: Mapping[str, Any]) -> Any:
    """Network `name`, randomly initialised, from what an untrusted model file says: its name and constructor keywords.

    It does not go through `timm.create_model`, whose other keywords (`checkpoint_path`, `pretrained_cfg`, …) open
    files: a model file could name one.

    Raises:
        RMTError: no network of that name.
        ValueError: a keyword that is not `RMT`'s, or a number out of bounds.
    """
    if name not in ARCHITECTURES:
        check_name(name)
        if not 0 <= arguments.get("img_size", 224) <= 4096:  # some networks compute tables for it
            raise ValueError("img_size is out of bounds")
        return create_timm_network(name, checked_args(arguments))
    for key in arguments:
        if key not in ARGUMENTS:
            raise ValueError(f"model_args contains {key[:40]!r}, which is not an argument of the network")
    return build(name, **checked_args(arguments))


def rebuild_from_weights(state: Mapping[str, Tensor], path: Path, model: str = "") -> tuple[RMT, Architecture]:
    """The network that a state dict under the authors' names or ours is for, with its weights; see `architecture.py`.

    Args:
        path: of the file, for messages.
        model: the named network that it is a variant of; by default the most similar one.
    """
    architecture = read_architecture(state, path, model)

    def build_network() -> RMT:
        network = rebuild(architecture.model, architecture.changes | architecture.sizes)
        if not network.num_classes:
            network.prune_intermediate_layers([len(network.stages) - 1])
        return network

    with building_from(path):
        check_fit(build_network().state_dict(), from_official(state), str(path))  # before memory is allocated
    network = build_network()
    load_official(network, state)
    return network, architecture
