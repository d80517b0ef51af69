"""Model files: writing them, their metadata, and loading weights into a network.

A model file is safetensors with one metadata key `rmt`: JSON from which network, labels and preprocessing can be
rebuilt without any other file (`rebuild.py`). The authors' `.pth` files can be loaded too, see `state_dicts.py`.
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
from rmt.model.exported_files import SUFFIXES as EXPORTED
from rmt.model.exported_files import exported_metadata
from rmt.model.metadata import FORMAT, metadata_problem
from rmt.model.rmt import RMT
from rmt.model.shipped import SHIPPED, shipped_weights
from rmt.model.state_dicts import (
    CLASSIFIERS,
    FIRST_RELEASE,
    HEAD,
    check_fit,
    from_official,
    is_first_release,
    is_safetensors,
    one_line,
    read_state_dict,
    require_file,
    unwrap,
)
from rmt.model.timm_networks import BUILD_ERRORS, is_timm_network, load_timm_weights
from rmt.suggestions import nearest_run


def load_official(
    model: nn.Module, source: str | Path | Mapping[str, Any], *, new_head: bool = False, use_ema: bool = True
) -> list[str]:
    """Load the authors' weights, a `.pth` file or its content, into one of our networks.

    Args:
        model: the network, or timm's `features_only` wrapper of one.
        source: a path, or the content of such a file as a dict. Files of ours can be loaded as well.
        new_head: keep the network's own classifier if the file has none or one for another number of classes, which
            is an error otherwise.
        use_ema: prefer the averaged weights if the file has both.
    Returns:
        the names that kept the network's own values (empty unless `new_head`).
    Raises:
        RMTError: one line that lists missing, unexpected and mis-shaped names; or a file of the authors' first release
            and a network with phases, which would give other outputs.
    """
    if isinstance(source, Mapping):
        state, name = unwrap(source, use_ema), "the state dict"
    else:
        state, name = read_state_dict(source, use_ema), str(source)
    return load_state_dict(model, state, name, new_head=new_head)


def load_state_dict(model: nn.Module, state: Mapping[str, Tensor], name: str, *, new_head: bool = False) -> list[str]:
    """As `load_official`, from the tensors of a file that is called `name` in messages."""
    if not isinstance(getattr(model, "model", model), RMT):
        return load_timm_weights(model, state, name, new_head=new_head)
    if is_first_release(state) and getattr(getattr(model, "model", model), "phases", "none") != "none":
        keywords = ", ".join(f"{key}={value!r}" for key, value in FIRST_RELEASE.items())
        options = ",".join(f"{key}={str(value).lower()}" for key, value in FIRST_RELEASE.items())
        raise RMTError(
            f"{name} is of the authors' first release: build its network by create_model(NAME, {keywords}), or"
            f" train with --model-args {options}"
        )
    return _load(model, from_official(state), name, new_head)


def load_checkpoint(model: nn.Module, path: str | Path, *, new_head: bool = False) -> list[str]:
    """Load weights into `model`: a file of `save_checkpoint`, the best one of a run folder, or a file of the authors.

    Args:
        model: the network, of the file's architecture.
        path: the file or folder, or the name of a network with weights in the package.
        new_head: keep the network's own classifier if the file has none or one for another number of classes.
    Returns:
        the names that kept the network's own values (empty unless `new_head`).
    Raises:
        RMTError: no such file, or names or shapes that do not match; the line lists them.
    """
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
    data: Mapping[str, Any] | None = None,
    state_dict: Mapping[str, Tensor] | None = None,
) -> None:
    """Write a model file, from which network, labels and preprocessing can be rebuilt.

    The file is written beside `path` and renamed, so it appears whole or not at all.

    Args:
        model: the network.
        task: "classify", "detect" or "segment"; `head` and `head_args` describe what follows the backbone.
        model_name: the name for `create_model`; by default that which `model` was created by.
        model_args: the keywords for `create_model`; by default those `model` was created with.
        classes: label names, in the order of the logits.
        preprocessing: `size`, `mean`, `std`, `interpolation`, `crop_pct`; by default the network's `pretrained_cfg`.
        metrics: scores, as JSON values.
        recipe: the fields of the recipe, as JSON values.
        data: facts about the data, as JSON values: a digest of the images of each split.
        state_dict: weights to write instead of the model's current ones, e.g. averaged ones.
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
        data=dict(data or {}),
    )
    tensors = {name: value.detach().cpu().contiguous() for name, value in (state_dict or model.state_dict()).items()}
    # Halves of characters, such as undecodable bytes in the path of the data, cannot be in a text in UTF-8.
    text = json.dumps(metadata, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    write_bytes(Path(path), safetensors.torch.save(tensors, metadata={"rmt": text}))


def model_arguments(model: nn.Module) -> dict[str, Any]:
    """The keywords that build `model` again: those it was created with, updated.

    Classes and pooling may have been reset since, and a pretrained file may have set the number of input channels.
    """
    if not isinstance(model, RMT):
        return getattr(model, "model_args", {}) | {"num_classes": getattr(model, "num_classes", 0)}
    now = dict(num_classes=0, in_chans=3, global_pool="avg")
    return getattr(model, "model_args", {}) | {key: getattr(model, key, default) for key, default in now.items()}


def resolve_checkpoint(path: str | Path) -> Path:
    """The path of a file itself, of the `best.safetensors` of a run folder, or of the weights in this package.

    Raises:
        RMTError: a folder without `best.safetensors`, or the name of a network that has no weights in this package.
    """
    path = Path(path)
    if not path.exists():
        if shipped := shipped_weights(str(path)):
            return shipped
        if is_timm_network(str(path)):
            raise RMTError(
                f"{path} is a network without weights in this package: give a model file, a run folder, or the name of "
                f"a network with weights ({', '.join(SHIPPED)})"
            )
    if not path.is_dir():
        return path
    best = path / "best.safetensors"
    if not best.is_file():
        if (path / "recipe.json").is_file():
            raise RMTError(
                f"{path} has no best.safetensors yet: the run stopped before its first evaluation; continue it with"
                f" rmt train --resume {path}"
            )
        near = nearest_run(path, best.name)
        raise RMTError(f"{path} is a folder without best.safetensors; give a run folder or a model file{near}")
    return best


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that `save_checkpoint` wrote: format, task, model, model_args, head, …, recipe.

    That of an exported file is the same with an entry `exported`, see `rmt.export`.

    Raises:
        RMTError: neither a model file of ours nor an exported one, or of a newer format.
    """
    path = resolve_checkpoint(path)
    if path.suffix in EXPORTED:
        require_file(path)
        metadata = _checked_metadata(exported_metadata(path), path)
        if not isinstance(metadata.get("exported"), dict):
            raise RMTError(f"{path} has no valid `exported` in its metadata; export it again with rmt export")
        return metadata
    found = describe_weights(path)
    if found is None:
        ours = "has no `rmt` metadata, so it is not a model file of ours"
        problem = ours if is_safetensors(path) else "is not a safetensors file"
        raise RMTError(f"{path} {problem}; convert the authors' .pth files with rmt convert")
    return found


def describe_weights(path: str | Path) -> dict[str, Any] | None:
    """As `read_metadata`, but None if the file has no such metadata: any other weights, in any format.

    The content of the file decides, not its name.

    Raises:
        RMTError: no such file, an exported one, or a model file of ours that is damaged or of a newer format.
    """
    path = resolve_checkpoint(path)
    require_file(path, weights=True)
    if not is_safetensors(path):
        return None
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("rmt")
    except (SafetensorError, OSError) as error:
        raise RMTError(f"{path} is not a readable model file: {one_line(error)}") from error
    return None if text is None else _checked_metadata(text, path)


def _checked_metadata(text: str, path: Path) -> dict[str, Any]:
    """The metadata in the JSON text of a file. Raises RMTError if an entry is missing or of another type."""
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RMTError(f"{path} is not a readable model file: {one_line(error)}") from error
    if problem := metadata_problem(metadata):
        raise RMTError(f"{path} {problem}")
    # null is as if it were not there
    metadata |= {part: metadata.get(part) or {} for part in ("head_args", "recipe", "metrics")}
    for part in ("preprocessing", "metrics"):
        metadata[part] = {key: value for key, value in metadata[part].items() if value is not None}
    return metadata


@contextlib.contextmanager
def building_from(path: Path) -> Iterator[None]:
    """Build on the meta device, and turn a constructor's error about an untrusted file's arguments into RMTError."""
    try:
        with torch.device("meta"):
            yield
    except (RMTError, *BUILD_ERRORS) as error:
        if isinstance(error, RMTError) and str(path) in str(error):
            raise
        raise RMTError(f"{path} describes a network that cannot be built: {one_line(error)}") from error


def load_meta_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a model on the meta device the weights of `state`, each in memory of its own, in the model's dtypes.

    The tensors of a safetensors file share one buffer at unaligned addresses, and for those some matrix libraries
    sum in another order (MKL with AVX-512): a loaded model would differ from the saved one in the last bit.
    """
    own = model.state_dict()
    state = {name: value.to(own[name].dtype, copy=True) for name, value in state.items()}
    model.load_state_dict(state, assign=True)


COUNTS = {"depths", "convs", "box_convs", "box_fcs", "mask_convs", "octave_scales"}
"""Arguments that are numbers of modules to build."""


def _total(numbers: Sequence[Any]) -> float:
    return sum(abs(number) for number in numbers if isinstance(number, int | float))


def checked_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse numbers from an untrusted file that would take long to build before shapes can be compared."""
    for name, value in args.items():
        numbers = value if isinstance(value, list | tuple) else [value]
        limit = 256 if name in COUNTS else 2**20
        too_large = any(isinstance(n, int | float) and not abs(n) <= limit for n in numbers)
        if len(numbers) > 16 or too_large or (name in COUNTS and _total(numbers) > limit):
            raise ValueError(f"{name}={str(value)[:40]} is out of bounds")
    return dict(args)


def _load(model: nn.Module, state: dict[str, Tensor], name: str, new_head: bool) -> list[str]:
    network = getattr(model, "model", model)  # inside timm's features_only wrapper
    own = network.state_dict()
    if not any(CLASSIFIERS.match(key) for key in own):  # built without a classifier
        state = {key: value for key, value in state.items() if key in own or not HEAD.match(key)}
    if new_head:
        state = {
            key: value
            for key, value in state.items()
            if not HEAD.match(key) or (key in own and own[key].shape == value.shape)
        }
    missing = [key for key in own if new_head and HEAD.match(key) and key not in state]
    hint = "" if new_head else "; new_head=True keeps the network's own classifier"
    check_fit(own, state, name, optional=missing, hint=hint)
    network.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    return [key for key in missing if not key.endswith("num_batches_tracked")]
