"""`rmt info [MODEL]`: list the networks, or describe one."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import tyro

from rmt.errors import RMTError


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "",
    *,
    image_size: int = 0,
    json: bool = False,
) -> None:
    """Describe a network: stages, parameters, multiply-adds and each head's decay. Without MODEL, list the networks.

    Args:
        model: A network's name (`rmt_small`), a `.safetensors` file, or a run folder.
        image_size: Side in pixels of the square image for which multiply-adds are counted; 0 is the network's own.
        json: Print JSON instead of text.
    """
    if image_size and image_size < 32:
        raise RMTError(f"--image-size {image_size}: a network needs at least 32 pixels a side")
    if image_size and not model:
        raise RMTError("--image-size needs MODEL: it is the size for which multiply-adds are counted")
    info: Any = _describe(model, image_size) if model else _networks()
    if json:
        print(json_module.dumps(info, indent=2))
    else:
        print(_text(info) if model else _table(info))


def _networks() -> list[dict[str, Any]]:
    """All networks in brief, without multiply-adds, because counting those of all networks takes seconds."""
    from rmt.model import create_model, list_models
    from rmt.model.variants import PAPER_TOP1

    networks = []
    for name in list_models():
        network = create_model(name, device="meta")
        size, parameters = network.pretrained_cfg["input_size"][1:], sum(p.numel() for p in network.parameters())
        networks.append(dict(model=name, image_size=size, parameters=parameters, paper_top1=PAPER_TOP1.get(name)))
    return networks


def _table(networks: list[dict[str, Any]]) -> str:
    lines = [f"{'network':<16}{'parameters':>12}{'image size':>12}{'top-1 in the paper':>21}"]
    for network in networks:
        top1 = f"{network['paper_top1']:.1f} %" if network["paper_top1"] else "–"
        size = f"{network['image_size'][0]}²"
        lines.append(f"{network['model']:<16}{network['parameters']:>12,}{size:>12}{top1:>21}")
    return "\n".join([*lines, "", "`rmt info NAME` shows stages, multiply-adds and each head's decay."])


def _describe(model: str, image_size: int) -> dict[str, Any]:
    """The network of this name or in this file, as JSON can represent it."""
    from rmt.model import create_model, list_models, load_model, read_metadata
    from rmt.model.cost import describe

    file_info: dict[str, Any] = {}
    size: Any = image_size
    if model in list_models():
        network: Any = create_model(model, device="meta")
    elif not Path(model).exists():
        raise RMTError(f"{model} is neither a file nor one of {', '.join(list_models())}")
    else:
        metadata = read_metadata(model)
        file_info = {key: metadata[key] for key in ("task", "classes", "preprocessing", "metrics")}
        if metadata["task"] == "classify":
            network, _ = load_model(model)
            size = size or metadata["preprocessing"].get("size")
        else:
            from rmt.heads import load_model as load_with_head  # needs torchvision

            whole, _ = load_with_head(model)
            network = whole.pyramid.backbone
            file_info |= dict(head=metadata["head"], parameters_with_head=sum(p.numel() for p in whole.parameters()))
    size = size or network.pretrained_cfg["input_size"]
    return describe(network, *((size, size) if isinstance(size, int) else size[-2:])) | file_info


def _text(info: dict[str, Any]) -> str:
    size = "×".join(map(str, info["image_size"]))
    classes = f"{info['classes_out']} classes" if info["classes_out"] else "no classifier"
    cost = f"{info['parameters']:,} parameters, {info['macs'] / 1e9:.3f} G multiply-adds at {size}"
    lines = [f"{info['model']}: {cost} ({classes})"]
    if "head" in info:
        lines.append(f"with its {info['head']} head: {info['parameters_with_head']:,} parameters")
    lines += ["", "stage stride      grid blocks channels heads  attention     decay γ per head"]
    for i, stage in enumerate(info["stages"], start=1):
        grid = "×".join(map(str, stage["grid"]))
        attention = "rows+cols" if stage["decomposed"] else "all pairs"
        if stage["attention"] != "masa":
            attention = stage["attention"].removeprefix("retention_")
        decay = " ".join(f"{gamma:.4f}" for gamma in stage["decay"]) or "none"
        lines.append(
            f"{i:>5} {stage['stride']:>6} {grid:>9} {stage['blocks']:>6} {stage['channels']:>8} {stage['heads']:>5}"
            f"  {attention:<12}  {decay}"
        )
    if names := info.get("classes"):
        lines += ["", "classes: " + ", ".join(map(str, names[:10])) + (f", … ({len(names)})" if names[10:] else "")]
    if metrics := info.get("metrics"):
        lines.append("metrics: " + ", ".join(f"{key} {value}" for key, value in metrics.items()))
    return "\n".join(lines)
