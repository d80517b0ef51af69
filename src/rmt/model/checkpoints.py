"""Networks and their weights on disk.

A model file of ours is safetensors with one metadata key `rmt`: JSON from which network, labels and preprocessing can
be rebuilt without any other file. The authors' `.pth` files are read too, see `state_dicts.py`.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rmt.atomic import write_bytes
from rmt.errors import RMTError
from rmt.model.rmt import RMT
from rmt.model.state_dicts import (
    CLASSIFIERS,
    HEAD,
    check_fit,
    from_official,
    is_safetensors,
    one_line,
    read_state_dict,
    unwrap,
)

FORMAT = 1


def load_official(
    model: nn.Module, source: str | Path | Mapping[str, Any], *, new_head: bool = False, use_ema: bool = True
) -> list[str]:
    """Load the authors' weights, a `.pth` file or its content, into one of our networks.

    Args:
        model: the network, or timm's `features_only` wrapper of one.
        source: a path, or a dict as the file holds it. Files of ours are taken as well.
        new_head: keep the network's own classifier where the file has none or one for other classes; without this,
            that is an error.
        use_ema: where the file holds both, take the averaged weights.
    Returns:
        the names that kept the network's own values (empty unless `new_head`).
    Raises:
        RMTError: one line that lists missing, unexpected and mis-shaped names.
    """
    if isinstance(source, Mapping):
        state, name = unwrap(source, use_ema), "the state dict"
    else:
        state, name = read_state_dict(source, use_ema), str(source)
    return _load(model, from_official(state), name, new_head)


def load_checkpoint(model: nn.Module, path: str | Path, *, new_head: bool = False) -> list[str]:
    """Load a file of `save_checkpoint` (or a run folder, or the authors' file) into `model`; see `load_official`."""
    return load_official(model, resolve_checkpoint(path), new_head=new_head)


def save_checkpoint(
    model: nn.Module,
    path: str | Path,
    *,
    task: str = "classify",
    model_name: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    head: str | None = None,
    head_args: Mapping[str, Any] | None = None,
    classes: Sequence[str] = (),
    preprocessing: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model file: safetensors that alone rebuilds network, labels and preprocessing.

    The file appears whole or not at all: it is written beside `path` and renamed.

    Args:
        model: the network.
        task: "classify", "detect" or "segment"; `head` and `head_args` name what sits on the backbone.
        model_name, model_args: for `create_model`; by default what `model` was created with.
        classes: label names in the order of the logits.
        preprocessing: `size`, `mean`, `std`, `interpolation`, `crop_pct`; by default the network's `pretrained_cfg`.
        metrics, recipe: anything JSON can hold, for the reader.
        state_dict: other weights than the model's current ones, e.g. averaged.
    Raises:
        RMTError: the file cannot be written (no permission, disk full).
    """
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if model_args is None:
        model_args = model_arguments(model)
    if preprocessing is None:
        keys = ("mean", "std", "interpolation", "crop_pct")
        preprocessing = {"size": cfg.get("input_size", (3, 224, 224))[1:], **{key: cfg.get(key) for key in keys}}
    metadata = dict(
        format=FORMAT,
        task=task,
        model=model_name or cfg.get("architecture"),
        model_args=dict(model_args),
        head=head,
        head_args=dict(head_args or {}),
        classes=list(classes),
        preprocessing=dict(preprocessing),
        metrics=dict(metrics or {}),
        recipe=dict(recipe or {}),
    )
    tensors = {name: value.detach().cpu().contiguous() for name, value in (state_dict or model.state_dict()).items()}
    data = safetensors.torch.save(tensors, metadata={"rmt": json.dumps(metadata)})
    write_bytes(Path(path), data)


def model_arguments(model: nn.Module) -> dict[str, Any]:
    """The keywords that build `model` again: those it was created with, or what came of them.

    Classes and pooling may have been reset since, and the channels of images may be those of a pretrained file.
    """
    now = dict(num_classes=0, in_chans=3, global_pool="avg")
    return getattr(model, "model_args", {}) | {key: getattr(model, key, default) for key, default in now.items()}


def resolve_checkpoint(path: str | Path) -> Path:
    """A file itself; of a run folder its `best.safetensors`. Raises RMTError for a folder without."""
    path = Path(path)
    if not path.is_dir():
        return path
    best = path / "best.safetensors"
    if not best.is_file():
        if (path / "recipe.json").is_file():  # a run, stopped before there was a best
            raise RMTError(f"{path} has no weights yet, for its run was not judged once: `rmt train --resume {path}`")
        raise RMTError(f"{path} is a folder without best.safetensors; give a run folder or a model file")
    return best


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON that `save_checkpoint` wrote: format, task, model, model_args, head, …, recipe.

    Raises:
        RMTError: not a model file of ours, or of a newer format.
    """
    path = resolve_checkpoint(path)
    metadata = describe_weights(path)
    if metadata is None:
        ours = "has no `rmt` metadata, so it is not a model file of ours"
        problem = ours if is_safetensors(path) else "is not a safetensors file"
        raise RMTError(f"{path} {problem}; rmt convert makes a model file of the authors' .pth files")
    return metadata


def describe_weights(path: str | Path) -> dict[str, Any] | None:
    """As `read_metadata`, but None where the file says nothing of itself: anyone's weights, in whatever format.

    What a file is, its content says, whatever it is called.

    Raises:
        RMTError: no such file, or a model file of ours that is damaged or of a newer format.
    """
    path = resolve_checkpoint(path)
    if not path.is_file():
        raise RMTError(f"no checkpoint at {path}")
    if not is_safetensors(path):
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("rmt")
        if text is None:
            return None
        metadata = json.loads(text)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RMTError(f"{path} is not a readable model file: {one_line(error)}") from error
    if not isinstance(metadata, dict):
        raise RMTError(f"{path} is not a readable model file: its `rmt` metadata are no JSON object")
    if metadata.get("format") != FORMAT:
        raise RMTError(f"{path} is of format {metadata.get('format')!r}, this version reads format {FORMAT}")
    for key, kind in dict(task=str, model=str, model_args=dict, classes=list, preprocessing=dict).items():
        if not isinstance(metadata.get(key), kind):
            raise RMTError(f"{path} has no valid `{key}` in its metadata; write it again with rmt.save_checkpoint")
    return metadata


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[RMT, dict[str, Any]]:
    """The classifier in a model file or run folder, in eval mode, and the file's metadata.

    Shapes are compared before any memory is taken, so a file cannot ask for more than it holds.
    """
    from rmt.model.variants import rebuild

    path = resolve_checkpoint(path)
    metadata = read_metadata(path)
    if metadata["task"] != "classify":
        raise RMTError(f"{path} is a model for the task {metadata['task']!r}; this call loads classifiers")
    state = read_state_dict(path)
    with building_from(path):
        model = rebuild(metadata["model"], metadata["model_args"])
    if not any(HEAD.match(key) for key in state):  # a backbone alone, as `rmt convert` makes it of a detector
        model.prune_intermediate_layers([len(model.stages) - 1])
    check_fit(model.state_dict(), state, str(path))
    load_meta_model(model, state)
    return model.to(device).eval(), metadata


@contextlib.contextmanager
def building_from(path: Path) -> Iterator[None]:
    """Builds on the meta device, and turns what a constructor says to arguments from an untrusted file into one line.

    Raises RMTError.
    """
    try:
        with torch.device("meta"):
            yield
    except (TypeError, ValueError, AssertionError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
        raise RMTError(f"{path} describes a network that cannot be built: {one_line(error)}") from error


def load_meta_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model on the meta device the weights of `state`, each in memory of its own.

    Tensors of a safetensors file lie at any address in one buffer, and matrix libraries sum in another order where
    memory is not aligned (seen with MKL on AVX-512): a loaded model would differ in the last bit from the saved one.
    """
    model.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)


COUNTS = {"depths", "convs", "box_convs", "box_fcs", "mask_convs", "octave_scales"}
"""Arguments that say how many modules to build."""


def checked_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse numbers from an untrusted file that would keep the machine busy before shapes can be compared."""
    for name, value in args.items():
        numbers = value if isinstance(value, list) else [value]
        limit = 256 if name in COUNTS else 2**20
        if len(numbers) > 16 or any(isinstance(n, int | float) and not abs(n) <= limit for n in numbers):
            raise ValueError(f"{name}={str(value)[:40]} is out of bounds")
    return dict(args)


def _load(model: nn.Module, state: dict[str, Tensor], name: str, new_head: bool) -> list[str]:
    network = getattr(model, "model", model)  # timm's features_only wrapper holds it there
    own = network.state_dict()
    if not any(CLASSIFIERS.match(key) for key in own):  # made without a classifier on purpose
        state = {key: value for key, value in state.items() if key in own or not HEAD.match(key)}
    if new_head:
        state = {
            key: value
            for key, value in state.items()
            if not HEAD.match(key) or (key in own and own[key].shape == value.shape)
        }
    fresh = [key for key in own if new_head and HEAD.match(key) and key not in state]
    hint = "" if new_head else "; new_head=True keeps the network's own classifier"
    check_fit(own, state, name, optional=fresh, hint=hint)
    network.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    return [key for key in fresh if not key.endswith("num_batches_tracked")]
