"""A folder as the Hugging Face hub holds timm's networks: timm (`local-dir:`, `hf-hub:`) and transformers load it."""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from torch import nn

from rmt.atomic import disk_errors_as_rmt_error
from rmt.errors import RMTError
from rmt.model import load_model, read_metadata, resolve_checkpoint
from rmt.output_folder import require_empty


def write_hub_folder(checkpoint: str | Path, folder: Path, licence: str, data_licence: str = "") -> None:
    """Write config.json, model.safetensors and README.md (the model card), and load them once by timm.

    Args:
        checkpoint: the model file or run folder of a classifier.
        folder: new or empty.
        licence: of the weights, as the hub names it, e.g. "apache-2.0".
        data_licence: of the training images, for the model card.
    Raises:
        RMTError: not a classifier, no licence, the folder is not empty, or the copy differs from the original.
    """
    source = resolve_checkpoint(checkpoint)
    if (task := read_metadata(source)["task"]) != "classify":
        raise RMTError(
            f"--format hub is for classifiers, and {source} is a model for the task {task!r}: share the file"
        )
    if not licence:
        raise RMTError(
            "--license is missing: name that of the weights, e.g. apache-2.0, as the licences of the training images "
            "and of the weights that training began with allow; nothing is published without one"
        )
    require_empty(folder)
    network, metadata = load_model(source)
    metadata["recipe"] = _without_folders(metadata["recipe"])
    with disk_errors_as_rmt_error(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.writing-", dir=folder.parent))
        try:
            _write(network, metadata, draft, folder.name, licence, data_licence)
            _check(network, draft)
            if folder.exists():
                folder.rmdir()
            draft.chmod(0o755)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def _without_folders(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe with the last part of each path alone, as the folders above it can name a person or a machine."""
    return {
        key: re.split(r"[/\\]", value.rstrip("/\\"))[-1] if isinstance(value, str) and "://" not in value else value
        for key, value in recipe.items()
    }


def _write(
    network: nn.Module, metadata: dict[str, Any], folder: Path, name: str, licence: str, data_licence: str
) -> None:
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    notes = {"format": "pt", "rmt": json.dumps(metadata)}  # `rmt` reads the file, too
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(tensors, metadata=notes))
    (folder / "config.json").write_text(json.dumps(_config(network, metadata, licence), indent=2) + "\n")
    (folder / "README.md").write_text(_card(metadata, name, licence, data_licence))


def _config(network: Any, metadata: Mapping[str, Any], licence: str) -> dict[str, Any]:
    """The description of the network, as timm writes and reads it."""
    own, preprocessing = network.pretrained_cfg, metadata["preprocessing"]
    size = preprocessing.get("size") or own["input_size"][1:]
    height, width = (size, size) if isinstance(size, int) else size
    replaced = ("num_classes", "in_chans", "drop_path_rate", "global_pool")
    arguments = {key: value for key, value in metadata["model_args"].items() if key not in replaced}
    channels = metadata["model_args"].get("in_chans", 3)
    if channels != 3:
        arguments["in_chans"] = channels
    cfg = {
        "tag": "rmt",
        "custom_load": False,
        "input_size": [channels, height, width],
        "fixed_input_size": bool(own.get("fixed_input_size", False)),
        "num_classes": network.num_classes,
        "crop_mode": "center",
        "license": licence,
    }
    cfg |= {key: own[key] for key in ("first_conv", "classifier") if key in own}
    cfg |= {
        key: preprocessing.get(key) or own[key]
        for key in ("interpolation", "crop_pct", "mean", "std")
        if preprocessing.get(key) or key in own
    }
    config: dict[str, Any] = {
        "architecture": metadata["model"],
        "num_classes": network.num_classes,
        "num_features": network.num_features,
        "global_pool": getattr(network, "global_pool", "avg"),
        "model_args": arguments,
        "pretrained_cfg": cfg,
    }
    if metadata["classes"]:
        config["label_names"] = list(metadata["classes"])
    return config


def _card(metadata: Mapping[str, Any], name: str, licence: str, data_licence: str) -> str:
    """The model card: licences, how to load it, what is known about training and scores."""
    metrics = {key: value for key, value in metadata["metrics"].items() if isinstance(value, int | float)}
    scores = {
        f"{part} {key}": value
        for part, entry in metadata["metrics"].items()
        if isinstance(entry, dict)
        for key, value in entry.items()
        if isinstance(value, int | float)
    }
    rows = "\n".join(f"| {key} | {value:g} |" for key, value in (metrics | scores).items())
    table = f"\n## Scores\n\n| | |\n|---|---|\n{rows}\n" if rows else ""
    recipe = metadata["recipe"]
    data = f"Trained on `{recipe['data']}`. " if isinstance(recipe.get("data"), str) and recipe["data"] else ""
    classes = ", ".join(map(str, metadata["classes"][:20])) + (", …" if metadata["classes"][20:] else "")
    return f"""---
license: {licence}
library_name: timm
pipeline_tag: image-classification
tags:
- image-classification
- timm
- transformers
---
# {name}

{metadata["model"]}, trained by rmt-vision, an implementation of RMT
([Retentive Networks Meet Vision Transformers](https://arxiv.org/abs/2309.11523)).
Classes: {classes or "without names"}.

{data}Licence of the training images: {data_licence or "not stated"}.

```python
import rmt, timm  # pip install rmt-vision; `import rmt` registers the networks with timm

model = timm.create_model("local-dir:{name}", pretrained=True).eval()  # or "hf-hub:USER/{name}"
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

```python
import rmt
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor, model = (kind.from_pretrained("{name}") for kind in (AutoImageProcessor, AutoModelForImageClassification))
```
{table}"""


def _check(network: nn.Module, folder: Path) -> None:
    """Raise RMTError unless timm loads the same network from the folder."""
    copy: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    image = torch.rand(1, *copy.pretrained_cfg["input_size"], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if not torch.equal(copy(image), network(image)):
            raise RMTError("timm loads another network from the folder than the model file has; nothing was written")
