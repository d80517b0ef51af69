"""Teachers: any timm classifier, applied to each location of its feature map instead of to the pooled features."""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from rmt.errors import RMTError
from rmt.model import describe_weights, list_models, load_model, resolve_checkpoint
from rmt.model.state_dicts import read_state_dict


@dataclass(frozen=True)
class Teacher:
    """A classifier in eval mode, its preprocessing, and the origin of its weights."""

    model: nn.Module
    name: str
    weights: str  # file name and SHA-256, or "pretrained" for timm's own
    classes: tuple[str, ...]  # () if the file does not name them
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str

    @torch.inference_mode()
    def top(self, images: Tensor, k: int = 5) -> tuple[Tensor, Tensor]:
        """The k classes with the largest logits at each location of images (B, 3, H, W).

        Returns logits (float32, see `relative_top`) and class numbers (int64), both (B, h, w, k), the largest first.
        """
        return relative_top(dense_logits(self.model, images).float(), k)


def load_teacher(name: str, weights: str = "") -> Teacher:
    """Returns the network of a timm name, with weights from a file, or with timm's pretrained ones (a download).

    A model file or run folder of this package contains the name, which may then be left out ("").

    Raises:
        RMTError: the name is unknown, or the weights are another network's.
    """
    path = Path(resolve_checkpoint(weights)) if weights else None
    metadata = None if path is None else describe_weights(path)
    model: nn.Module
    if path is not None and metadata is not None:
        model, _ = load_model(path)
        if name not in ("", metadata["model"]):
            raise RMTError(f"{path} holds {metadata['model']}, not {name}")
        name = metadata["model"]
        config = {**model.pretrained_cfg, **metadata["preprocessing"]}
        height, width = config["size"]
    else:
        if not timm.is_model(name):
            raise RMTError(f"--teacher {name!r}: timm has no such network; timm.list_models('*effnet*') finds names")
        model = _with_weights(name, path)
        config = timm.data.resolve_model_data_config(model)
        height, width = config["input_size"][1:]
    return Teacher(
        model=model.eval(),
        name=name,
        weights="pretrained" if path is None else f"{path.name} sha256:{_digest(path)}",
        classes=tuple(metadata["classes"]) if metadata is not None else (),
        size=(int(height), int(width)),
        mean=tuple(map(float, config["mean"])),
        std=tuple(map(float, config["std"])),
        interpolation=config["interpolation"],
    )


def dense_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The logits of a timm classifier at each location: images (B, 3, H, W) to (B, h, w, classes).

    Each location passes through the network's own head as a feature map of size 1×1, which pooling does not change. In
    networks of tokens the location also takes the position of the class token.
    """
    features = model.forward_features(images)  # type: ignore[operator]
    if features.ndim == 3:
        prefix = getattr(model, "num_prefix_tokens", 0)
        grid = _token_grid(model, features.shape[1] - prefix, images)
        places = features[:, prefix:].flatten(0, 1)[:, None].expand(-1, prefix + 1, -1)
    elif getattr(model, "output_fmt", "NCHW") == "NHWC":
        grid = features.shape[1], features.shape[2]
        places = features.flatten(0, 2)[:, None, None]
    else:
        grid = features.shape[2], features.shape[3]
        places = features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
    logits = model.forward_head(places)  # type: ignore[operator]
    return logits.view(len(images), *grid, -1)


def relative_top(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of the logits (B, h, w, K), minus the level of the others, and their classes: both (B, h, w, k).

    The level is the logarithm of the mean of exp(logit) over the classes that are left out. With it subtracted and the
    logit 0 for the classes left out, the softmax gives the k classes the probabilities that the teacher gives them,
    whatever the level of its logits. Without classes left out (k ≥ K) the mean is over all.
    """
    top, classes = logits.topk(min(k, logits.shape[-1]), dim=-1)
    left_out = logits.shape[-1] - top.shape[-1]
    others = logits.scatter(-1, classes, -torch.inf) if left_out else logits
    level = others.logsumexp(-1, keepdim=True) - math.log(left_out or logits.shape[-1])
    return top - level, classes


def _token_grid(model: nn.Module, tokens: int, images: Tensor) -> tuple[int, int]:
    """Rows and columns of the tokens of square patches."""
    height, width = images.shape[2:]
    rows = round(math.sqrt(tokens * height / width))
    if rows < 1 or tokens % rows:
        raise RMTError(f"{type(model).__name__}: {tokens} tokens of a {height}×{width} image are no grid")
    return rows, tokens // rows


def _with_weights(name: str, path: Path | None) -> nn.Module:
    if path is None:
        try:
            return timm.create_model(name, pretrained=True)
        except Exception as error:  # whatever the hub raises without a connection, or without weights of this name
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise RMTError(f"--teacher {name}: no pretrained weights ({reason}); give a file: --weights") from error
    state = read_state_dict(path)
    config = timm.get_pretrained_cfg(name)
    classifier = config.classifier if config and isinstance(config.classifier, str) else ""
    rows = state.get(f"{classifier}.weight")
    classes = 1000 if rows is None else len(rows)
    source = {"file": str(path)} if name in list_models() else {"state_dict": state, "custom_load": False}
    try:  # timm's own loading also maps the tensor names of a network's first authors
        overlay = {**source, "num_classes": classes, "label_offset": 0}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes)
    except RMTError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise RMTError(f"{path}: not weights of {name}: {reason}") from error


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
