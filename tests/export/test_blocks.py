"""Blocks as fixed graphs have them: the same function as the deployed blocks."""

import pytest
import torch
from helpers.networks import TINY
from torch import nn

import rmt
from rmt.export.blocks import GraphBlock, _rotate, rewrite_blocks
from rmt.model import RMT
from rmt.model.deploy import DeployedBlock

TOLERANCE = 1e-5


def rewritten(fused=False, **options) -> tuple[RMT, RMT]:
    """A deployed network with decays and phases that matter, and the same with its blocks rewritten."""
    torch.manual_seed(0)
    model = RMT(**TINY | options).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    graph = rmt.deploy(model)
    rewrite_blocks(graph, fused=fused)
    return rmt.deploy(model), graph


@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(fused=True),
        dict(phases="axial"),
        dict(phases="none", decay="none", fused=True),
        dict(lce=False, cpe=False, ffn_conv=False),
        dict(decomposed=(False, True, False, True)),
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(64, 64), (40, 97)])
def test_rewritten_blocks_compute_the_same(options, size):
    deployed, graph = rewritten(**options)
    assert sum(isinstance(module, GraphBlock) for module in graph.modules()) == sum(TINY["depths"])
    x = torch.randn(1, 3, *size)
    with torch.no_grad():
        wanted, found = deployed.forward_features(x), graph.forward_features(x)
    assert (found - wanted).abs().max() <= TOLERANCE * wanted.abs().max()


class Rotated(nn.Module):
    """The scores of tokens (8, 8) as two heads, with their phases, as a block computes them."""

    def forward(self, x):
        x = x.view(1, -1, 2, 4).transpose(1, 2)
        angle = torch.linspace(0, 3, 32).view(1, 1, 8, 4)
        x = _rotate(x, angle.sin(), angle.cos())
        return x @ x.transpose(-1, -2)


def test_openvino_runs_phases_as_one_operator():
    openvino = pytest.importorskip("openvino")
    program = torch.export.export(Rotated(), (torch.randn(8, 8),))
    compiled = openvino.Core().compile_model(openvino.convert_model(program), "CPU")
    layers = {node.get_rt_info()["layerType"].astype(str) for node in compiled.get_runtime_model().get_ops()}
    assert "RoPE" in layers and not layers & {"Split", "Concatenation", "Transpose"}


@pytest.mark.parametrize("options", [dict(gate=True), dict(decay="paper"), dict(attention="window")], ids=str)
def test_other_attentions_keep_their_blocks(options):
    deployed, graph = rewritten(**options)
    assert sum(isinstance(module, DeployedBlock) for module in graph.modules()) == sum(TINY["depths"])
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(graph(x), deployed(x))
