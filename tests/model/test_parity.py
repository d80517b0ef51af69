"""Our networks answer what the released networks answered, on the same deterministic weights and images."""

import json

import numpy as np
import pytest
import torch
from helpers.networks import FIRST_RELEASE, PARITY, TINY, official_weights
from helpers.parity_fill import image

from rmt.model import RMT, create_model, load_official

NETWORKS = {
    "tiny": lambda: RMT(**TINY),
    "tiny_token_label": lambda: RMT(**TINY, aux_head=True),
    "rmt_t": lambda: create_model("rmt_tiny"),
    "rmt_s": lambda: create_model("rmt_small"),
    "first_release_tiny": lambda: RMT(**TINY | FIRST_RELEASE),
    "first_release_rmt_t": lambda: create_model("rmt_tiny", **FIRST_RELEASE),
}
CASES = [
    (name, size)
    for name in NETWORKS
    for size in sorted({key.split("/")[0] for key in np.load(PARITY / f"{name}.npz").files})
]
TOLERANCE = {torch.float32: 5e-6, torch.float64: 1e-7}  # the answers are stored in float32


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("name", "size"), CASES)
def test_answers_of_the_released_networks(name, size, dtype):
    model = NETWORKS[name]().eval()
    load_official(model, official_weights(name))
    answers = np.load(PARITY / f"{name}.npz")
    x = torch.from_numpy(image(*map(int, size.split("x")))).to(dtype)
    with torch.no_grad():
        last, stages = model.to(dtype).forward_intermediates(x)
        logits = model.forward_head(last)

    expected = torch.from_numpy(answers[f"{size}/logits"]).to(dtype)
    assert (logits - expected).norm() / expected.norm() <= TOLERANCE[dtype]
    for i, stage in enumerate(stages, start=1):
        flat = stage.permute(0, 2, 3, 1).flatten()
        mean, std = answers[f"{size}/stage{i}/mean_std"].tolist()
        scale = (mean**2 + std**2) ** 0.5  # of the map: some samples happen to lie near zero
        sample = flat[:: flat.numel() // 16][:16]
        assert (sample - torch.from_numpy(answers[f"{size}/stage{i}/sample"])).abs().max() / scale <= TOLERANCE[dtype]
        assert abs(flat.mean() - mean) / scale <= TOLERANCE[dtype]
        correction = 0 if name.startswith("first_release") else 1  # as the answers were written
        assert abs(flat.std(correction=correction) - std) / scale <= TOLERANCE[dtype]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_counts_of_the_released_networks(name):
    expected = json.loads((PARITY / f"{name}.json").read_text())["parameters"]
    assert sum(p.numel() for p in NETWORKS[name]().parameters()) == expected


@pytest.mark.parametrize(
    "change",
    [
        dict(decay="none"),
        dict(decomposed=(False,) * 4),
        dict(decay_ranges=((2, 7),) * 4),
        dict(phases="axial"),
        dict(phases="none"),
    ],
    ids=str,
)
def test_parity_data_would_notice(change):
    """The comparison is sharp: another decay or another form of attention is far outside the tolerance."""
    model = RMT(**TINY | change).eval()
    load_official(model, official_weights("tiny"))
    expected = torch.from_numpy(np.load(PARITY / "tiny.npz")["1x96x64/logits"])
    with torch.no_grad():
        logits = model(torch.from_numpy(image(1, 96, 64)))
    assert (logits - expected).norm() / expected.norm() > 2e-5


@pytest.mark.parametrize(("name", "parameters"), [("tiny", 13_192_200), ("small", 25_701_064), ("base", 52_689_680)])
def test_parameter_counts_of_the_first_release(name, parameters):
    network = create_model(f"rmt_{name}", device="meta", **FIRST_RELEASE)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("phases", ["flat", "axial"])
def test_parity_data_of_the_first_release_would_notice_phases(phases):
    """`load_official` refuses such a network, so the weights come by way of the right one."""
    right, model = RMT(**TINY | FIRST_RELEASE), RMT(**TINY | FIRST_RELEASE | dict(phases=phases)).eval()
    load_official(right, official_weights("first_release_tiny"))
    model.load_state_dict(right.state_dict())
    expected = torch.from_numpy(np.load(PARITY / "first_release_tiny.npz")["1x96x64/logits"])
    with torch.no_grad():
        logits = model(torch.from_numpy(image(1, 96, 64)))
    assert (logits - expected).norm() / expected.norm() > 2e-5
