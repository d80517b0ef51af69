"""`rmt.deploy` is exact: checked with statistics, scales and biases far from their initial values."""

import copy

import pytest
import timm
import torch
from helpers.networks import TINY
from helpers.parity_fill import fill, image
from timm.layers import LayerScale
from torch import nn

import rmt
from rmt.model import RMT, create_model, list_models

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
# The named networks with fewer blocks: folding is the same in every block.
SHALLOW = {4: (1, 1, 2, 1), 3: (1, 2, 1), 2: (1, 2), 1: (2,)}


def fill_network(model: nn.Module) -> nn.Module:
    """Values as in the parity data, whose rules go by the authors' names for layer scales."""
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            official = name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")
            value.copy_(torch.from_numpy(fill(official, tuple(value.shape))))
    return model.eval()


def pictures(height: int, width: int, dtype=torch.float32) -> torch.Tensor:
    return torch.from_numpy(image(2, height, width)).to(dtype)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def shallow(name: str, **kwargs) -> nn.Module:
    stages = len(create_model(name, device="meta").stages)
    return fill_network(create_model(name, depths=SHALLOW[stages], num_classes=10, **kwargs))


@pytest.mark.parametrize("name", list_models())
@torch.no_grad()
def test_every_variant_keeps_its_logits(name):
    model = shallow(name)
    x = pictures(64, 96)
    expected, before = model(x), copy.deepcopy(model.state_dict())
    assert relative_error(rmt.deploy(model)(x), expected) < TOLERANCE[torch.float32]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items()), (
        "deploy changed its argument"
    )


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(decay="paper"),
        dict(decay="none", lce=False),
        dict(phases="axial"),
        dict(phases="none", decay="paper"),
        dict(gate=True),
        dict(head_hidden_dim=None, head_norm="batch"),
        dict(head_norm="layer"),
        dict(cpe=False, ffn_conv=False),
        dict(conv_downsample=False, conv_stem=False, head_hidden_dim=None),
        dict(aux_head=True),
        dict(global_pool=""),
        dict(num_classes=0),
    ],
    ids=str,
)
@torch.no_grad()
def test_every_option_in_both_precisions(options, dtype):
    model = fill_network(RMT(**TINY | options)).to(dtype)
    x = pictures(70, 90, dtype)
    deployed = rmt.deploy(model)
    assert relative_error(deployed(x), model(x)) < TOLERANCE[dtype]
    features = model.forward_features(x)
    head = deployed.forward_head(deployed.forward_features(x), pre_logits=True)
    assert relative_error(head, model.forward_head(features, pre_logits=True)) < TOLERANCE[dtype]
    for found, expected in zip(deployed.forward_intermediates(x)[1], model.forward_intermediates(x)[1], strict=True):
        assert relative_error(found, expected) < TOLERANCE[dtype]


@torch.no_grad()
def test_nothing_foldable_is_left_and_nothing_is_trainable():
    deployed = rmt.deploy(fill_network(RMT(**TINY)))
    left = {type(m) for m in deployed.modules()} & {nn.BatchNorm2d, nn.LayerNorm, LayerScale}
    assert not left, left
    assert not any(p.requires_grad for p in deployed.parameters())
    assert not deployed.training


@torch.no_grad()
def test_a_norm_behind_a_pooling_is_kept():
    model = fill_network(rmt.create_model("rmt_nano"))
    model.stem[5].weight.mul_(-1)  # a negative scale does not commute with a maximum
    x = torch.randn(2, 3, 32, 32)
    deployed = rmt.deploy(model)
    assert [isinstance(layer, nn.BatchNorm2d) for layer in deployed.stem].count(True) == 2
    assert relative_error(deployed(x), model(x)) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_depthwise_kernels_lie_tap_by_tap():
    """So that the kernels that read them so make no copy; another dtype keeps the layout."""
    block = rmt.deploy(RMT(**TINY)).bfloat16().stages[0].blocks[0]
    for conv in (block.cpe, block.attn.lce, block.mlp.dwconv):
        assert conv.weight.flatten(1).t().is_contiguous()
        assert conv.weight.flatten(1).data_ptr() == conv.weight.data_ptr()


def test_deploying_twice_changes_nothing():
    once = rmt.deploy(fill_network(RMT(**TINY)))
    x = pictures(64, 64)
    assert torch.equal(rmt.deploy(once)(x), once(x))


@torch.no_grad()
def test_features_only():
    model = timm.create_model("rmt_pico", features_only=True, out_indices=(1, 3))
    fill_network(model)
    x = pictures(64, 96)
    deployed = rmt.deploy(model)
    assert deployed.feature_info.channels() == model.feature_info.channels()
    for found, expected in zip(deployed(x), model(x), strict=True):
        assert relative_error(found, expected) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_export_of_the_deployed_form():
    model = fill_network(RMT(**TINY))
    x = pictures(64, 64)
    exported = torch.export.export(rmt.deploy(model), (x,))
    assert relative_error(exported.module()(x), model(x)) < TOLERANCE[torch.float32]


@torch.no_grad()
def test_bfloat16_is_rounded_only_once():
    model = fill_network(RMT(**TINY))
    x = pictures(64, 64)
    half = rmt.deploy(model).bfloat16()(x.bfloat16())
    assert relative_error(half.float(), model(x)) < 2e-2
