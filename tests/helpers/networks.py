"""The small networks and the deterministic weights that tests of many parts share."""

import json
from pathlib import Path

import torch

from helpers.parity_fill import filled_state
from rmt.model import RMT, create_model

PARITY = Path(__file__).parents[1] / "data" / "parity"

# The `tiny` case of the parity data: every part of the large networks, layer scales included.
TINY = dict(
    depths=(1, 1, 2, 1),
    dims=(16, 32, 64, 128),
    num_heads=(2, 2, 4, 8),
    mlp_ratios=(4, 4, 3, 3),
    layer_scales=(None, None, 1e-6, 1e-6),
    num_classes=10,
    head_hidden_dim=64,
)


# What the network of the authors' first release differs in.
FIRST_RELEASE = dict(phases="none", ffn_conv=False, head_hidden_dim=0, head_norm="batch")


def official_weights(case: str) -> dict[str, torch.Tensor]:
    """Deterministic weights under the authors' names, with non-trivial statistics and scales."""
    manifest = json.loads((PARITY / f"{case}.json").read_text())["tensors"]
    return {name: torch.from_numpy(value) for name, value in filled_state(manifest).items()}


def pico(**kwargs) -> RMT:
    """`rmt_pico` for five classes, the same weights at every call."""
    torch.manual_seed(0)
    return create_model("rmt_pico", **{"num_classes": 5, **kwargs})


def official(model: RMT) -> dict[str, torch.Tensor]:
    """The weights of one of our networks under the authors' names, made the other way round."""
    ours = model.state_dict()
    names = {}
    for i, stage in enumerate(model.stages):
        for j, _ in enumerate(stage.blocks):
            p, o = f"stages.{i}.blocks.{j}.", f"layers.{i}.blocks.{j}."
            pairs = {"cpe": "pos.conv", "norm1": "retention_layer_norm", "attn.q": "retention.q_proj"}
            pairs |= {"attn.k": "retention.k_proj", "attn.v": "retention.v_proj", "attn.lce": "retention.lepe.conv"}
            pairs |= {"attn.proj": "retention.out_proj", "norm2": "final_layer_norm", "mlp.fc1": "ffn.fc1"}
            pairs |= {"mlp.dwconv": "ffn.dwconv.conv", "mlp.fc2": "ffn.fc2"}
            names |= {p + f"ls{n}.gamma": o + f"gamma_{n}" for n in (1, 2) if p + f"ls{n}.gamma" in ours}
            for a, b in pairs.items():
                for kind in ("weight", "bias"):
                    names[p + a + "." + kind] = o + b + "." + kind
    for name in ours:
        if name.startswith("stem."):
            names[name] = "patch_embed.proj." + name[5:]
        elif ".downsample." in name:
            stage = int(name.split(".")[1])
            rest = name.split("downsample.")[1].replace("0.", "reduction.", 1).replace("1.", "norm.", 1)
            names[name] = f"layers.{stage - 1}.downsample.{rest}"
        elif name.startswith("head."):
            names[name] = name.removeprefix("head.").replace("fc.", "head.")
    assert set(names) == set(ours)
    return {names[name]: value for name, value in ours.items()}
