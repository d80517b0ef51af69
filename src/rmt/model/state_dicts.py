"""State dicts of any checkpoint file, ours or the authors': reading, renaming and comparing with a network.

No file read here can run code or allocate more memory than its own size: pickles are opened with `weights_only`.
"""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from rmt.errors import RMTError
from rmt.model.exported_files import SUFFIXES as EXPORTED
from rmt.model.shipped import SHIPPED
from rmt.suggestions import nearest_run
from rmt.terminal import short

# Prefixes of the authors' names, and ours. The first that matches is replaced, the rest of the name stays.
_OFFICIAL: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
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
# Computed by the network itself, or the norms of a feature pyramid (part of a detector or segmenter).
_NOT_THE_BACKBONE = re.compile(r"layers\.\d+\.Relpos\.|extra_norms\.\d+\.")
FIRST_RELEASE: dict[str, Any] = dict(phases="none", ffn_conv=False, head_hidden_dim=0, head_norm="batch")
"""The keywords of `create_model` for the networks that the authors published first, until June 2024."""
HEAD = re.compile(r"(head|aux_head)\.")
# Names that PyTorch inserts for a module inside: torch.compile, FSDP, activation checkpointing.
_INSERTED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OUR_PYRAMID = re.compile(r"(?:backbone\.)?pyramid\.(?:(backbone)|norms\.(\d+))\.")
_AVERAGED = ("ema.", "ema_model.", "model_ema.")
"""What LightningModules and EMA packages call the averaged copy of a network."""
_COUNTERS = ("n_averaged", "num_updates", "decay", "initted", "step")  # that lie beside the weights of such a copy
# A tensor of every RMT, behind what any other module that holds the network calls it, such as `student.`.
_HELD = re.compile(
    r"((?:\w+\.)+?)(?:backbone\.)?(?:pyramid\.backbone\.)?"
    r"(?:stages\.0\.blocks\.0\.attn\.q|layers\.0\.blocks\.0\.retention\.q_proj)\.weight"
)
CLASSIFIERS = re.compile(r"(head\.fc|aux_head)\.")


def require_file(path: Path, *, weights: bool = False) -> None:
    """Raises RMTError if there is no such file, or with `weights` if it is an exported one, which has none to load."""
    if not path.is_file():
        known = f"a model file, a run folder or a network of the package ({', '.join(SHIPPED)})"
        raise RMTError(f"no checkpoint at {path}: give {known}{nearest_run(path, 'best.safetensors')}")
    if weights and path.suffix in EXPORTED:
        raise RMTError(f"{path} is an exported file, without weights to load: give the model file that it was made of")


def read_state_dict(path: str | Path, use_ema: bool = True) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` or PyTorch file to the CPU, under the file's own names without wrapping.

    Wrapping means an outer key `model`, `state_dict`, `model_ema` or `state_dict_ema`; the names that DDP, FSDP and
    torch.compile insert, such as `module._orig_mod.`; the prefix `model.` of a LightningModule, whose other tensors are
    left out, or `ema.` and the like of its averaged copy; the prefix `backbone.`; and any other name of a module that
    holds one network. From a detector or segmenter, the authors' or ours, only the backbone and the norms of its
    feature pyramid are taken.

    Args:
        use_ema: prefer the averaged weights if the file has both.
    Raises:
        RMTError: no such file, not a checkpoint, or one with objects that could run code.
    """
    path = Path(path)
    require_file(path, weights=True)
    try:
        content = safetensors.torch.load_file(path) if is_safetensors(path) else read_pickle(path)
    except RMTError:
        raise
    except Exception as error:  # arbitrary bytes make the unpickler raise anything
        raise RMTError(f"{path} is not a readable checkpoint: {one_line(error)}") from error
    state = unwrap(content, use_ema, name=str(path))
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta:
            raise RMTError(f"{path} is refused: {key} in it is not an array of numbers (sparse, or without data)")
    if any(value.nbytes > value.untyped_storage().nbytes() for value in state.values()):
        raise RMTError(f"{path} is refused: a tensor in it is larger than its data")
    return state


def unwrap(content: Any, use_ema: bool = True, name: str = "the checkpoint") -> dict[str, Tensor]:
    """The tensors in the content of a checkpoint file, see `read_state_dict`."""
    keys = ["model", "state_dict"]  # Lightning's WeightAveraging keeps the network beside its average in `state_dict`
    averaged = ["model_ema", "state_dict_ema"]
    keys = [*averaged, *keys] if use_ema else ["current_model_state", *keys, *averaged]
    if isinstance(content, Mapping):
        content = next((content[key] for key in keys if isinstance(content.get(key), Mapping)), content)
    if not isinstance(content, Mapping):
        raise RMTError(f"{name} contains a {type(content).__name__}, not a dict of tensors")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    state = _without_wrappers(tensors, use_ema, name)
    if any(_OUR_PYRAMID.match(key) for key in state):
        state = _pyramid_of_ours(state)
    elif any(key.startswith("backbone.") for key in state):
        state = {key.removeprefix("backbone."): v for key, v in state.items() if key.startswith("backbone.")}
    if not state:
        raise RMTError(f"{name} contains no tensors")
    return state


def _without_wrappers(state: dict[str, Tensor], use_ema: bool, name: str) -> dict[str, Tensor]:
    """Without the names that wrappers put around a network. Raises RMTError if two tensors then have one name."""
    pairs = [(_INSERTED.sub("", key), value) for key, value in state.items()]
    while True:
        averaged = [(key, value) for key, value in pairs if key.startswith(_AVERAGED)]
        if averaged:
            beside = [(key, value) for key, value in pairs if not key.startswith(_AVERAGED)]
            inside = [(key.partition(".")[2], value) for key, value in averaged]
            inside = [(key, value) for key, value in inside if key not in _COUNTERS]
            pairs = inside if use_ema or not beside else beside
        elif any(key.startswith("module.") for key, _ in pairs):  # beside it, AveragedModel has its counter
            pairs = [(key.removeprefix("module."), value) for key, value in pairs if key != "n_averaged"]
        elif any(key.startswith("model.") for key, _ in pairs):
            pairs = [(key.removeprefix("model."), value) for key, value in pairs if key.startswith("model.")]
        else:
            break
    state = dict(pairs)
    if len(state) < len(pairs):
        raise RMTError(f"{name} contains two tensors of one name but for the prefixes of wrappers")
    return _of_one_module(state, name)


def _of_one_module(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors of the network alone, if the file is of a module that holds it under a name of its own."""
    holders = {match[1] for key in state if (match := _HELD.fullmatch(key))} - {"backbone.", "pyramid."}
    if len(holders) > 1:
        raise RMTError(f"{name} contains several networks ({', '.join(sorted(holders))}): save the one that is meant")
    for holder in holders:
        return {key.removeprefix(holder): value for key, value in state.items() if key.startswith(holder)}
    return state


def _pyramid_of_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Backbone and pyramid norms of a detector or segmenter of ours, the norms under the authors' names."""
    matches = [(match, value) for key, value in state.items() if (match := _OUR_PYRAMID.match(key))]
    first = 3 - max((int(match[2]) for match, _ in matches if match[2]), default=3)  # the last norm is that of stage 4
    return {
        match.string[match.end() :]
        if match[1]
        else f"extra_norms.{int(match[2]) + first}.{match.string[match.end() :]}": v
        for match, v in matches
    }


def from_official(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' names to ours, without the norms of a pyramid. Other names are returned unchanged."""
    state = {name: value for name, value in state.items() if not _NOT_THE_BACKBONE.match(name)}
    if not any(name.startswith(("patch_embed.", "layers.")) for name in state):
        return state
    ours = {}
    for name, value in state.items():
        for pattern, replacement in _OFFICIAL:
            renamed, hits = re.subn(f"^{pattern}", replacement, name)
            if hits:
                break
        ours[renamed] = value.flatten() if renamed.endswith(".gamma") else value  # theirs are (1, 1, 1, C)
    return ours


def is_first_release(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict under the authors' names is of their first release: its feed-forward has no convolution."""
    return any(".blocks." in name for name in state if name.startswith("layers.")) and not any(
        ".ffn.dwconv." in name for name in state
    )


def sizes_of(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The number of classes and of input channels of a state dict under our names, as keywords of `create_model`."""
    sizes = {"num_classes": state["head.fc.weight"].shape[0]} if "head.fc.weight" in state else {}
    stem = state.get("stem.0.weight", state.get("stem.proj.weight"))
    if stem is not None and stem.ndim == 4 and stem.shape[1] <= 1024:
        sizes["in_chans"] = stem.shape[1]
    return sizes


def check_fit(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str, optional: Sequence[str] = (), hint: str = ""
) -> None:
    """Raise RMTError unless `state` has exactly the names and shapes of `own`; `optional` names may be missing.

    Floating-point numbers may be of another precision, but not whole or complex.
    """
    missing = [k for k in own if k not in state and k not in optional and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    kinds = [
        f"{k} of {str(state[k].dtype).removeprefix('torch.')}"
        for k in own
        if k in state and own[k].is_floating_point() != state[k].is_floating_point()
    ]
    found = [("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)]
    problems = [
        f"{len(names)} {what}: {', '.join(short(name, 160) for name in names[:6])}{', …' if len(names) > 6 else ''}"
        for what, names in [*found, ("of another kind of numbers", kinds)]
        if names
    ]
    if problems:
        only_head = all(CLASSIFIERS.match(k) for k in [*missing, *unexpected, *shapes, *kinds])
        raise RMTError(f"{name} does not fit the network: {'; '.join(problems)}{hint if only_head else ''}")


def is_safetensors(path: Path) -> bool:
    """Whether a file is safetensors by content: eight bytes of length, then a JSON object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def starts_with_pickle(path: Path) -> bool:
    """Whether a file begins as a pickle of protocol 2 or later does, which `torch.save` writes."""
    with path.open("rb") as file:
        return file.read(1) == b"\x80"


def read_pickle(path: Path) -> Any:
    """The content of a PyTorch file, read with `weights_only`. Raises RMTError, or whatever arbitrary bytes cause."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            # torch.save does not compress; a compressed entry could unpack to far more than the file.
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("its entries are compressed, which no torch.save writes")
    elif not starts_with_pickle(path):  # PyTorch's own message for text is the number of its first character
        raise ValueError("neither safetensors nor what torch.save writes")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            # Many trainers save their options, a Namespace of plain data, beside the weights.
            warnings.simplefilter("ignore")  # of pickle protocols: the error below says what cannot be read
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        culprit = re.search(r"GLOBAL ([\w.]+)", str(error))
        if culprit is None:
            raise ValueError("neither safetensors nor what torch.save writes") from error
        raise RMTError(f"{path} is refused: besides tensors it contains {culprit[1]}, which could run code") from error


def one_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
