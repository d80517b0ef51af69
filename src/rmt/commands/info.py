"""`rmt info [MODEL]`: list the networks, or describe one, with its detector or segmenter."""

import json as json_module
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from rmt.errors import RMTError
from rmt.recipes import RECIPES
from rmt.recipes.published import DATASETS, PUBLISHED, Published
from rmt.terminal import plural, say


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="[MODEL]")] = "",
    *,
    image_size: tuple[int, ...] = (),
    json: bool = False,
) -> None:
    """Describe a network: stages, parameters, multiply-adds and each head's decay. Without MODEL, list the networks.

    Args:
        model: A network's name (`rmt_small`, or timm's, e.g. `resnet50`), a recipe's (`coco-mask-rcnn-small-1x`, for
            its detector), a `.safetensors` file, or a run folder. The name of a network with weights in the package
            (rmt_micro) describes those.
        image_size: Size in pixels of the image for which multiply-adds are counted, one number for a square or height
            and width; by default the network's own, and with a head 800 1280 for detectors, 512 2048 for segmenters.
        json: Print JSON instead of text.
    """
    size = image_size if any(image_size) else ()
    if len(size) > 2:
        raise RMTError(f"--image-size {' '.join(map(str, size))}: give one number, or height and width")
    if size and min(size) < 32:
        raise RMTError(f"--image-size {' '.join(map(str, size))}: a network needs at least 32 pixels a side")
    if size and not model:
        raise RMTError("--image-size needs MODEL: it is the size for which multiply-adds are counted")
    info: Any = _describe(model, size) if model else _networks()
    if json:
        print(json_module.dumps(info, indent=2))
    else:
        say(_text(info) if model else _table(info))


def _networks() -> list[dict[str, Any]]:
    """All networks in brief, without multiply-adds, because counting those of all networks takes seconds."""
    from rmt.model import create_model, list_models
    from rmt.model.shipped import SHIPPED
    from rmt.model.variants import PAPER_TOP1

    networks = []
    for name in list_models():
        network = create_model(name, device="meta")
        size, parameters = network.pretrained_cfg["input_size"][1:], sum(p.numel() for p in network.parameters())
        about = dict(paper_top1=PAPER_TOP1.get(name), weights=SHIPPED.get(name))
        networks.append(dict(model=name, image_size=size, parameters=parameters, **about))
    return networks


def _table(networks: list[dict[str, Any]]) -> str:
    lines = [f"{'network':<16}{'parameters':>12}{'image size':>12}{'top-1 in the paper':>21}"]
    for network in networks:
        top1 = f"{network['paper_top1']:.1f} %" if network["paper_top1"] else "–"
        size = f"{network['image_size'][0]}²"
        lines.append(f"{network['model']:<16}{network['parameters']:>12,}{size:>12}{top1:>21}")
    trained = ", ".join(f"{network['model']} ({network['weights']})" for network in networks if network["weights"])
    lines += ["", f"With weights in the package: {trained}; the name is taken wherever a checkpoint is."]
    return "\n".join([*lines, "`rmt info NAME` shows stages, multiply-adds and each head's decay."])


def _describe(model: str, size: tuple[int, ...]) -> dict[str, Any]:
    """The network of this name, of this recipe or in this file, as JSON can represent it."""
    import torch

    from rmt.model import create_model, list_models, load_model, read_metadata
    from rmt.model.cost import describe
    from rmt.model.networks import create_network, suggest_names
    from rmt.model.shipped import shipped_weights
    from rmt.model.timm_networks import is_timm_network

    file_info: dict[str, Any] = {}
    whole: Any = None  # the detector or segmenter around the network
    if shipped := shipped_weights(model):
        model = str(shipped)
    if model in list_models():
        network: Any = create_model(model, device="meta")
    elif model in RECIPES:
        network, whole = _network_of_recipe(model)
        published = PUBLISHED.get(model)
        if published and published.describe_cost():
            file_info = dict(published=asdict(published))
    elif not Path(model).exists():
        if not is_timm_network(model):
            raise RMTError(f"{model} is neither a file, a network nor a recipe (`rmt recipes`): {suggest_names(model)}")
        with torch.device("meta"):
            network = create_network(model, {"drop_path_rate": 0.0}, size[0] if len(set(size)) == 1 else None)
    else:
        metadata = read_metadata(model)
        file_info = {key: metadata[key] for key in ("task", "classes", "preprocessing", "metrics")}
        if metadata["task"] == "classify":
            network, _ = load_model(model)
            own = metadata["preprocessing"].get("size")
            size = size or ((own, own) if isinstance(own, int) else tuple(own or ()))
        else:
            from rmt.heads import load_model as load_with_head  # needs torchvision

            whole, _ = load_with_head(model)
            network = whole.pyramid.backbone
    height, width = (size * 2)[:2] if size else network.pretrained_cfg["input_size"][-2:]
    info = describe(network, height, width) | file_info
    if whole is None:
        return info
    return info | _with_head(whole, *((height, width) if size else _size_with_head(whole, network)))


def _network_of_recipe(name: str) -> tuple[Any, Any]:
    """The network of a recipe on the meta device, and the detector or segmenter that contains it, or None."""
    import torch

    from rmt.training.network import build_network, resolve_network

    recipe: Any = RECIPES[name]()
    if recipe.model == "auto":
        raise RMTError(f"{name} takes the network of its --weights: name a network, or the file")
    recipe = resolve_network(recipe)
    with torch.device("meta"):
        if recipe.task == "classify":
            return build_network(recipe), None
        from rmt.tasks.detect.build import build_detector
        from rmt.tasks.segment.build import build_segmenter

        build = build_detector if recipe.task == "detect" else build_segmenter
        whole: Any = build(recipe, DATASETS[recipe.task].classes)
    return whole.pyramid.backbone, whole


def _size_with_head(whole: Any, network: Any) -> tuple[int, int]:
    """The image size of the paper's table: Semantic FPN on RMT-T is counted at 512²."""
    if whole.head_name not in ("semantic_fpn", "upernet"):
        return 800, 1280
    return (512, 512) if network.pretrained_cfg["architecture"] == "rmt_tiny" else (512, 2048)


def _with_head(whole: Any, height: int, width: int) -> dict[str, Any]:
    from rmt.heads.cost import count_macs

    cost = count_macs(whole, height, width)
    return dict(
        head=whole.head_name,
        image_size_with_head=[height, width],
        classes_with_head=whole.num_classes,
        parameters_with_head=sum(p.numel() for p in whole.parameters()),
        macs_with_head=cost.macs,
        layer_macs_with_head=cost.layer_macs,
    )


def _text(info: dict[str, Any]) -> str:
    size = "×".join(map(str, info["image_size"]))
    classes = plural(info["classes_out"], "class") if info["classes_out"] else "no classifier"
    cost = f"{info['parameters']:,} parameters, {info['macs'] / 1e9:.3f} G multiply-adds at {size}"
    lines = [f"{info['model']}: {cost} ({classes})"]
    if "head" in info:
        lines.append(f"with its {info['head']} head: {info['parameters_with_head']:,} parameters")
        macs, layers = (f"{info[key] / 1e9:.1f} G" for key in ("macs_with_head", "layer_macs_with_head"))
        whole_size = "×".join(map(str, info["image_size_with_head"]))
        lines.append(
            f"with its head and {plural(info['classes_with_head'], 'class')} {macs} multiply-adds at {whole_size}"
        )
        lines.append(f"without the products of the attention {layers}, which is how the paper counts")
    if published := info.get("published"):
        lines.append(f"the paper: {Published(**published).describe_cost()}")
    if info["stages"]:
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
        lines += _metric_lines(metrics)
    return "\n".join(lines)


def _metric_lines(metrics: dict[str, Any]) -> list[str]:
    """The metrics of a file: what they are of, then a line for each set of images and for the score threshold."""
    groups = {key: value for key, value in metrics.items() if isinstance(value, dict)}
    single = ", ".join(f"{key} {_number(value)}" for key, value in metrics.items() if key not in groups)
    lines = [f"metrics: {single}"] if single else ["metrics:"]
    return lines + [
        f"  {key}: " + ", ".join(f"{name} {_number(value)}" for name, value in group.items())
        for key, group in groups.items()
    ]


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
