"""`rmt info [MODEL]`: which networks there are, or what one is and costs."""

import json as json_module
from pathlib import Path
from typing import Annotated, Any

import tyro


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "",
    *,
    image_size: int = 0,
    json: bool = False,
) -> None:
    """Describe a network: its stages, parameters, cost, and how far each head sees. Without one, list the networks.

    Args:
        model: A network's name (`rmt_small`), a `.safetensors` file, or a run folder.
        image_size: Side in pixels of the square image that the cost is stated for; 0 is the network's own.
        json: Print JSON instead of text.
    """
    from rmt.errors import RMTError
    from rmt.model import create_model, list_models, load_model, read_metadata
    from rmt.model.cost import describe

    if image_size and image_size < 32:
        raise RMTError(f"--image-size {image_size}: a network needs at least 32 pixels a side")
    if not model:
        if image_size:
            raise RMTError("--image-size: name a network, whose cost at that size is counted then")
        networks = _networks()
        print(json_module.dumps(networks, indent=2) if json else _list(networks))
        return
    metadata, whole = None, None
    if model in list_models():
        network = create_model(model, device="meta")
    elif Path(model).exists() and read_metadata(model)["task"] != "classify":
        from rmt.heads import load_model as load_with_head  # needs torchvision

        whole, metadata = load_with_head(model)
        network = whole.pyramid.backbone
    elif Path(model).exists():
        network, metadata = load_model(model)
    else:
        raise RMTError(f"{model} is neither a file nor one of {', '.join(list_models())}")
    own_size = network.pretrained_cfg["input_size"][1:]
    if metadata is not None and whole is None:  # a detector's size is no image's, but the sides that it is brought to
        own_size = metadata["preprocessing"].get("size", own_size)
    size = image_size or own_size
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    about = describe(network, height, width)
    if metadata is not None:
        about |= {key: metadata[key] for key in ("task", "classes", "preprocessing", "metrics")}
    if whole is not None and metadata is not None:
        about |= dict(head=metadata["head"], parameters_with_head=sum(p.numel() for p in whole.parameters()))
    print(json_module.dumps(about, indent=2) if json else _text(about))


def _networks() -> list[dict[str, Any]]:
    """Every network in brief. Multiply-adds are left out: they take seconds to count, for all of them."""
    from rmt.model import create_model, list_models
    from rmt.model.variants import PAPER_TOP1

    found = []
    for name in list_models():
        network = create_model(name, device="meta")
        size, parameters = network.pretrained_cfg["input_size"][1:], sum(p.numel() for p in network.parameters())
        found.append(dict(model=name, image_size=size, parameters=parameters, paper_top1=PAPER_TOP1.get(name)))
    return found


def _list(networks: list[dict[str, Any]]) -> str:
    lines = [f"{'network':<16}{'parameters':>12}{'made for':>10}{'top-1 in the paper':>21}"]
    for about in networks:
        top1 = f"{about['paper_top1']:.1f} %" if about["paper_top1"] else "–"
        size = f"{about['image_size'][0]}²"
        lines.append(f"{about['model']:<16}{about['parameters']:>12,}{size:>10}{top1:>21}")
    return "\n".join([*lines, "", "`rmt info NAME` shows stages, multiply-adds and each head's decay."])


def _text(about: dict) -> str:
    h, w = about["image_size"]
    classes = f"{about['classes_out']} classes" if about["classes_out"] else "no classifier"
    lines = [
        f"{about['model']}: {about['parameters']:,} parameters, {about['macs'] / 1e9:.3f} G multiply-adds at {h}×{w}"
        f" ({classes})",
        *([f"under {about['head']}: {about['parameters_with_head']:,} parameters in all"] if "head" in about else []),
        "",
        "stage stride      grid blocks channels heads  attention   decay γ per head",
    ]
    for i, stage in enumerate(about["stages"], start=1):
        grid = "×".join(map(str, stage["grid"]))
        decays = " ".join(f"{gamma:.4f}" for gamma in stage["decay"])
        kind = "rows+cols" if stage["decomposed"] else "all pairs"
        lines.append(
            f"{i:>5} {stage['stride']:>6} {grid:>9} {stage['blocks']:>6} {stage['channels']:>8} {stage['heads']:>5}"
            f"  {kind:<10}  {decays}"
        )
    if about.get("classes"):
        names = about["classes"]
        lines += [
            "",
            "classes: " + ", ".join(map(str, names[:10])) + (f", … ({len(names)})" if len(names) > 10 else ""),
        ]
    if about.get("metrics"):
        lines += ["metrics: " + ", ".join(f"{key} {value}" for key, value in about["metrics"].items())]
    return "\n".join(lines)
