"""The small networks and the deterministic weights that tests of many parts share."""

import json
from pathlib import Path

import torch
from parity_fill import filled_state

PARITY = Path(__file__).parent / "data" / "parity"

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


def official_weights(case: str) -> dict[str, torch.Tensor]:
    """Deterministic weights under the authors' names, with non-trivial statistics and scales."""
    manifest = json.loads((PARITY / f"{case}.json").read_text())["tensors"]
    return {name: torch.from_numpy(value) for name, value in filled_state(manifest).items()}
