"""The architecture of a network, read off the names and shapes of its weights, in a file of the authors' or of ours.

Depths, widths, ratios, layer scales, stem, convolutions and classifier follow from the tensors. The number of attention
heads and their decay are in the buffers `layers.I.Relpos.decay` of the authors' files, where those are kept. What the
file does not tell, always which stages are decomposed, is that of a named network: the given one, or the most similar.
"""

import inspect
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from rmt.errors import RMTError
from rmt.model.rmt import RMT
from rmt.model.state_dicts import FIRST_RELEASE, from_official, is_first_release, sizes_of
from rmt.model.variants import ARCHITECTURES, check_own_name, list_models

_DEFAULTS = {name: parameter.default for name, parameter in inspect.signature(RMT).parameters.items()}


class Architecture(NamedTuple):
    """A network as a named one and what differs.

    Attributes:
        model: name of the named network.
        changes: keywords of `create_model` in which the file differs from it.
        sizes: number of classes (0: no classifier) and of input channels.
        assumed: keywords that the file does not tell, and the named network's values.
    """

    model: str
    changes: dict[str, Any]
    sizes: dict[str, int]
    assumed: dict[str, Any]


def read_architecture(state: Mapping[str, Tensor], path: Path, model: str = "") -> Architecture:
    """Read the architecture off a state dict under the authors' names or ours.

    Args:
        path: of the file, for messages.
        model: name of the network that it is a variant of; by default the one with the fewest differences.
    Raises:
        RMTError: not the weights of an RMT, or too little is known about it.
    """
    ours = from_official(state)
    try:
        found = _from_shapes(ours) | _from_buffers(state)
    except (LookupError, ArithmeticError, ValueError) as error:
        raise RMTError(f"{path} fits none of {', '.join(list_models())}: {error!r:.200}") from error
    if any(name.startswith("layers.") for name in state):  # the authors'
        found |= dict(decay="released", phases=FIRST_RELEASE["phases"] if is_first_release(state) else "flat")
    stages = len(found["depths"])
    differences = {name: _differences(name, found) for name in list_models()}
    same_stages = [name for name in differences if len(_keywords(name)["depths"]) == stages]
    equal = [name for name in same_stages if not differences[name].keys() - FIRST_RELEASE.keys()]
    if model:
        check_own_name(model)
        if model not in same_stages:
            raise RMTError(f"{path} does not fit the network {model}: the file has {stages} stages")
        if equal and model not in equal:
            raise RMTError(f"{path} does not fit the network {model}: its shapes are those of {equal[0]}")
    known = "num_heads" in found or model or any("dims" not in differences[name] for name in same_stages)
    if not same_stages or not known:
        raise RMTError(
            f"{path} fits none of {', '.join(list_models())}, and does not tell its attention heads; name the network"
            " that it is a variant of: --model"
        )
    best = model or min(same_stages, key=lambda name: ("dims" in differences[name], len(differences[name])))
    untold = ("num_heads", "decay_ranges", "decomposed", "decay", "phases")
    assumed = {key: _keywords(best)[key] for key in untold if key not in found}
    return Architecture(best, differences[best], dict(num_classes=0) | sizes_of(ours), assumed)


def _keywords(name: str) -> dict[str, Any]:
    keywords = _DEFAULTS | ARCHITECTURES[name]
    return keywords | dict(head_hidden_dim=keywords["head_hidden_dim"] or 0)


def _differences(name: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """What was found in the file and is not so in the named network."""
    own = _keywords(name)
    return {key: value for key, value in found.items() if value != own[key]}


def _from_shapes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """The keywords of `RMT` that follow from names and shapes. Raises KeyError for a tensor that every RMT has."""
    found_blocks = [re.match(r"stages\.(\d+)\.blocks\.\d+\.", name) for name in ours]
    depths = Counter(stage for stage, _ in {(match[1], match[0]) for match in found_blocks if match})
    blocks = [f"stages.{i}.blocks.0" for i in range(max(1, len(depths)))]
    widths = [ours[f"{block}.mlp.fc1.weight"].shape for block in blocks]
    conv_stem = "stem.0.weight" in ours
    found: dict[str, Any] = dict(
        depths=tuple(depths[str(i)] for i in range(len(depths))),
        dims=tuple(dim for _, dim in widths),
        # int(ratio·dim) has to be the hidden width again
        mlp_ratios=tuple((hidden + 0.5 * (hidden % dim > 0)) / dim for hidden, dim in widths),
        layer_scales=tuple(1e-6 if f"{block}.ls1.gamma" in ours else None for block in blocks),
        lce=f"{blocks[0]}.attn.lce.weight" in ours,
        cpe=f"{blocks[0]}.cpe.weight" in ours,
        ffn_conv=f"{blocks[0]}.mlp.dwconv.weight" in ours,
        gate=f"{blocks[0]}.attn.gate.weight" in ours,
        conv_stem=conv_stem,
        conv_downsample="stages.1.downsample.0.weight" in ours,
        aux_head="aux_head.weight" in ours,
    )
    if conv_stem:
        found |= dict(pool_stem="stem.10.weight" not in ours)
    else:
        found |= dict(patch_size=ours["stem.proj.weight"].shape[-1], patch_norm="stem.norm.weight" in ours)
    if len(blocks) == 1:
        del found["conv_downsample"]
    if "head.fc.weight" in ours:
        hidden = ours["head.proj.weight"].shape[0] if "head.proj.weight" in ours else 0
        norm = "batch" if "head.norm.running_mean" in ours else "layer"
        found |= dict(head_hidden_dim=hidden, head_norm=None if (norm == "batch") == bool(hidden) else norm)
    return found


def _from_buffers(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Heads and decay of each stage by its buffer ln γᵢ = ln(1 − 2^(−a − (b−a)·i/n)), (n,); {} without buffers."""
    heads: list[int] = []
    ranges: list[tuple[float, float]] = []
    while (decay := state.get(f"layers.{len(heads)}.Relpos.decay")) is not None:
        n = decay.numel()
        heads.append(n)
        exponents = [-math.log2(-math.expm1(x)) if x < 0 else math.nan for x in decay.double().flatten().tolist()]
        a = exponents[0]
        b = a + (exponents[-1] - a) * n / (n - 1) if n > 1 else a
        a, b = (round(x, 2) if math.isfinite(x) else x for x in (a, b))  # ln γ is rounded to float32
        if all(abs(x - a - (b - a) * i / n) < 1e-2 for i, x in enumerate(exponents)):
            ranges.append((a, b))
    found: dict[str, Any] = dict(num_heads=tuple(heads)) if heads else {}
    if heads and len(ranges) == len(heads):
        found["decay_ranges"] = tuple(ranges)
    return found
