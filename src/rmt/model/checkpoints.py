"""Weights on disk: our safetensors files, and the authors' `.pth` files under their own names.

A model file of ours is safetensors with one metadata key `rmt`: JSON from which network, labels and preprocessing can
be rebuilt without any other file. No file read here can run code: pickles are opened with `weights_only`.
"""

import argparse
import json
import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rmt.errors import RMTError

FORMAT = 1
AUTHORS = "https://github.com/qhfan/RMT"

# The authors' names, from METHOD 8, and ours. Matched at the front, first hit wins; the rest of the name stays.
_OFFICIAL = [
    (r"patch_embed\.proj\.(\d+)\.", r"stem.\1."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.pos\.conv\.", r"stages.\1.blocks.\2.cpe."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.retention_layer_norm\.", r"stages.\1.blocks.\2.norm1."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.retention\.([qkv])_proj\.", r"stages.\1.blocks.\2.attn.\3."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.retention\.lepe\.conv\.", r"stages.\1.blocks.\2.attn.lce."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.retention\.out_proj\.", r"stages.\1.blocks.\2.attn.proj."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.final_layer_norm\.", r"stages.\1.blocks.\2.norm2."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.ffn\.dwconv\.conv\.", r"stages.\1.blocks.\2.mlp.dwconv."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.ffn\.(fc[12])\.", r"stages.\1.blocks.\2.mlp.\3."),
    (r"layers\.(\d+)\.blocks\.(\d+)\.gamma_([12])$", r"stages.\1.blocks.\2.ls\3.gamma"),
    (r"layers\.(\d+)\.downsample\.reduction\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.0."),
    (r"layers\.(\d+)\.downsample\.norm\.", lambda m: f"stages.{int(m[1]) + 1}.downsample.1."),
    (r"(proj|norm)\.", r"head.\1."),
    (r"head\.", r"head.fc."),
]
# Recomputed by the network, or a pyramid's (which belongs to the detector or segmenter on top).
_NOT_THE_BACKBONE = re.compile(r"layers\.\d+\.Relpos\.|extra_norms\.\d+\.")
_HEAD = re.compile(r"(head|aux_head)\.")
_CLASSIFIERS = re.compile(r"(head\.fc|aux_head)\.")


def read_state_dict(path: str | Path, use_ema: bool = True) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` or PyTorch file, on the CPU, under the file's own names less their wrapping.

    Wrapping is an outer `model`, `state_dict`, `model_ema` or `state_dict_ema`, and a `module.` or `backbone.` before
    each name; where there is a `backbone.`, the other parts of the detector are left out.

    Args:
        use_ema: where the file holds both, take the averaged weights.
    Raises:
        RMTError: no such file, not a checkpoint, or one with objects that could run code.
    """
    path = Path(path)
    if not path.is_file():
        raise RMTError(f"no checkpoint at {path}")
    try:
        content = safetensors.torch.load_file(path) if _is_safetensors(path) else _read_pickle(path)
    except RMTError:
        raise
    except Exception as error:  # the unpickler raises whatever arbitrary bytes lead it to
        raise RMTError(f"{path} is not a readable checkpoint: {_one_line(error)}") from error
    return unwrap(content, use_ema, name=str(path))


def unwrap(content: Any, use_ema: bool = True, name: str = "the checkpoint") -> dict[str, Tensor]:
    """The bare tensors of what a checkpoint file held, see `read_state_dict`."""
    keys = ["model", "state_dict"]
    keys = ["model_ema", "state_dict_ema", *keys] if use_ema else [*keys, "model_ema", "state_dict_ema"]
    if isinstance(content, Mapping):
        content = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        raise RMTError(f"{name} holds a {type(content).__name__}, not a dict of tensors")
    state = {str(key).removeprefix("module."): value for key, value in content.items() if isinstance(value, Tensor)}
    if any(key.startswith("backbone.") for key in state):
        state = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    if not state:
        raise RMTError(f"{name} holds no tensors")
    return state


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names to ours (METHOD 8). State dicts under our names come back as they are."""
    if not any(name.startswith(("patch_embed.", "layers.")) for name in state):
        return dict(state)
    ours = {}
    for name, value in state.items():
        if _NOT_THE_BACKBONE.match(name):
            continue
        for pattern, replacement in _OFFICIAL:
            renamed, hits = re.subn(f"^{pattern}", replacement, name)
            if hits:
                break
        ours[renamed] = value.flatten() if renamed.endswith(".gamma") else value  # theirs are (1, 1, 1, C)
    return ours


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
        model_args = {**getattr(model, "model_args", {}), "num_classes": getattr(model, "num_classes", 0)}
        model_args["global_pool"] = getattr(model, "global_pool", "avg")
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
    write_atomically(Path(path), data)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, whole or not at all: write beside it, flush to the disk, rename."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise RMTError(f"cannot write {path}: {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def resolve_checkpoint(path: str | Path) -> Path:
    """A file itself; of a run folder its `best.safetensors`."""
    path = Path(path)
    if not path.is_dir():
        return path
    best = path / "best.safetensors"
    if not best.is_file():
        raise RMTError(f"{path} is a folder without best.safetensors; give a run folder or a model file")
    return best


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The JSON that `save_checkpoint` wrote: format, task, model, model_args, head, …, recipe.

    Raises:
        RMTError: not a model file of ours, or of a newer format.
    """
    path = resolve_checkpoint(path)
    if not path.is_file():
        raise RMTError(f"no checkpoint at {path}")
    hint = "rmt convert makes a model file of the authors' .pth files"
    if not _is_safetensors(path):
        raise RMTError(f"{path} is not a safetensors file; {hint}")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get("rmt")
        metadata = json.loads(text) if text is not None else None
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise RMTError(f"{path} is not a readable model file: {_one_line(error)}") from error
    if not isinstance(metadata, dict):
        raise RMTError(f"{path} has no `rmt` metadata, so it is not a model file of ours; {hint}")
    if metadata.get("format") != FORMAT:
        raise RMTError(f"{path} is of format {metadata.get('format')!r}, this version reads format {FORMAT}")
    for key, kind in dict(task=str, model=str, model_args=dict, classes=list, preprocessing=dict).items():
        if not isinstance(metadata.get(key), kind):
            raise RMTError(f"{path} has no valid `{key}` in its metadata; write it again with rmt.save_checkpoint")
    return metadata


def load_model(path: str | Path, device: str | torch.device = "cpu") -> tuple[nn.Module, dict[str, Any]]:
    """The classifier in a model file or run folder, in eval mode, and the file's metadata.

    Shapes are compared before any memory is taken, so a file cannot ask for more than it holds.
    """
    from rmt.model.variants import create_model

    path = resolve_checkpoint(path)
    metadata = read_metadata(path)
    if metadata["task"] != "classify":
        raise RMTError(f"{path} is a model for the task {metadata['task']!r}; this call loads classifiers")
    state = read_state_dict(path)
    try:
        model = create_model(metadata["model"], device="meta", **_checked_args(metadata["model_args"]))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise RMTError(f"{path} describes a network that cannot be built: {_one_line(error)}") from error
    if not any(_HEAD.match(key) for key in state):  # a backbone alone, as `rmt convert` makes it of a detector
        model.prune_intermediate_layers([len(model.stages) - 1])
    _check(model.state_dict(), state, str(path))
    model.load_state_dict(state, assign=True)
    return model.to(device).eval(), metadata


def _checked_args(args: Mapping[str, Any]) -> dict[str, Any]:
    """Refuse numbers from an untrusted file that would keep the machine busy before shapes can be compared."""
    for name, value in args.items():
        numbers = value if isinstance(value, list) else [value]
        limit = 256 if name == "depths" else 2**20
        if len(numbers) > 16 or any(isinstance(n, int | float) and not abs(n) <= limit for n in numbers):
            raise ValueError(f"{name}={str(value)[:40]} is out of bounds")
    return {"num_classes": 1000, **args}


def filter_state_dict(
    state: Mapping[str, Tensor], model: nn.Module, headless: bool = False, name: str = "the checkpoint"
) -> dict[str, Tensor]:
    """What timm's loader may load into `model`: our names, everything but the classifiers checked.

    timm itself leaves out a classifier for another number of classes and adapts the first convolution to `in_chans`.

    Args:
        headless: `features_only`, so the file needs no head.
    """
    state = from_official(unwrap(state, name=name))
    own = model.state_dict()
    if headless:  # timm prunes the head after loading: whatever it holds is as good
        state = {key: value for key, value in state.items() if not _HEAD.match(key)}
        state |= {key: value for key, value in own.items() if _HEAD.match(key)}
    elif model.num_classes and "head.fc.weight" not in state:
        raise RMTError(f"{name} has no classifier; pass features_only=True or num_classes=0")
    first_conv = "stem.0.weight" if "stem.0.weight" in own else "stem.proj.weight"
    checked = [
        {key: value for key, value in tensors.items() if not _CLASSIFIERS.match(key) and key != first_conv}
        for tensors in (own, state)
    ]
    _check(*checked, name)
    return state


def describe_source(model_name: str, cfg: Any, overlay: dict[str, Any]) -> dict[str, Any]:
    """`pretrained_cfg_overlay` with what its file says of itself: the number of classes and of input channels.

    Raises:
        RMTError: no file was given. Nothing can be downloaded: the authors' weights have no licence to spread them.
    """
    given = {**(cfg if isinstance(cfg, Mapping) else getattr(cfg, "__dict__", {})), **overlay}
    if given.get("state_dict"):
        state = unwrap(given["state_dict"])
    elif given.get("file"):
        overlay["file"] = str(resolve_checkpoint(given["file"]))
        state = read_state_dict(overlay["file"])
    else:
        raise RMTError(
            f"pretrained=True: no weights of {model_name} can be downloaded; the authors link theirs at {AUTHORS}. With"
            f" such a file: timm.create_model({model_name!r}, pretrained=True, pretrained_cfg_overlay=dict(file=PATH))"
        )
    state = from_official(state)
    if "head.fc.weight" in state:
        overlay["num_classes"] = state["head.fc.weight"].shape[0]
    for name in ("stem.0.weight", "stem.proj.weight"):
        if name in state and state[name].ndim == 4:
            overlay["input_size"] = (state[name].shape[1], *(given.get("input_size") or (3, 224, 224))[1:])
    return overlay


def _load(model: nn.Module, state: dict[str, Tensor], name: str, new_head: bool) -> list[str]:
    network = getattr(model, "model", model)  # timm's features_only wrapper holds it there
    own = network.state_dict()
    if not any(_CLASSIFIERS.match(key) for key in own):  # made without a classifier on purpose
        state = {key: value for key, value in state.items() if key in own or not _HEAD.match(key)}
    if new_head:
        state = {
            key: value
            for key, value in state.items()
            if not _HEAD.match(key) or (key in own and own[key].shape == value.shape)
        }
    fresh = [key for key in own if new_head and _HEAD.match(key) and key not in state]
    hint = "" if new_head else "; new_head=True keeps the network's own classifier"
    _check(own, state, name, optional=fresh, hint=hint)
    network.load_state_dict({key: state.get(key, value) for key, value in own.items()})
    return [key for key in fresh if not key.endswith("num_batches_tracked")]


def _check(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str, optional: Sequence[str] = (), hint: str = ""
) -> None:
    """Raise RMTError unless `state` has exactly the names and shapes of `own`, less the optional ones."""
    missing = [k for k in own if k not in state and k not in optional and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    problems = [
        f"{len(names)} {what}: {', '.join(names[:6])}{', …' if len(names) > 6 else ''}"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        only_head = all(_CLASSIFIERS.match(k) for k in [*missing, *unexpected, *shapes])
        raise RMTError(f"{name} does not fit the network: {'; '.join(problems)}{hint if only_head else ''}")


def _is_safetensors(path: Path) -> bool:
    """By content: eight bytes of length, then a JSON object. A pickle or zip starts otherwise."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_pickle(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch.save stores; a compressed entry could unpack to far more than the file.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its entries are compressed, which no torch.save writes")
    try:
        with torch.serialization.safe_globals(
            [argparse.Namespace]
        ):  # the authors keep their options beside the weights
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise ValueError("neither safetensors nor what torch.save writes") from error
        raise RMTError(f"{path} is refused: besides tensors it holds {culprit[1]}, which could run code") from error


def _one_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
