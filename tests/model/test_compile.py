"""Graph capture: torch.compile without a break, torch.export with dynamic sizes. On tiny networks: it is slow."""

import pytest
import torch
from helpers.networks import TINY

from rmt.model import RMT, ManhattanSelfAttention

# One block per form of attention: more of the same only takes longer.
SMALL = TINY | dict(depths=(1, 1), dims=(16, 32), num_heads=(2, 2), mlp_ratios=(2, 2), layer_scales=(None, 1e-6))
SMALL |= dict(decomposed=(True, False), decay_ranges=((2, 6), (2, 6)), head_hidden_dim=32)


@pytest.fixture(autouse=True)
def _reset():
    yield
    torch._dynamo.reset()


FORMS = [dict(), dict(phases="axial"), dict(phases="none", decay="paper"), dict(gate=True)]
MARKED = [FORMS[0], *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])]
"""Other phases and decays make the same graph as those of the paper, of other numbers or fewer nodes."""


@pytest.mark.parametrize("form", MARKED, ids=str)
def test_no_graph_break(form):
    """The whole network is one graph, forward and backward. Tracing alone decides that, without code generation."""
    torch.manual_seed(0)
    model = RMT(**SMALL, **form).train()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=False)
    x = torch.randn(2, 3, 33, 47)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-6)
    compiled(x).sum().backward()


@pytest.mark.parametrize(
    ("decomposed", "phases"),
    [(True, "flat"), (False, "flat"), pytest.param(True, "axial", marks=pytest.mark.slow), (False, "none")],
)
def test_code_generation(decomposed, phases):
    """Inductor's attention matcher fails on rank-5 products, as the released network has them."""
    torch.manual_seed(0)
    attn = ManhattanSelfAttention(16, 2, decomposed=decomposed, phases=phases, lce=False).eval()
    x = torch.randn(1, 4, 5, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(attn, fullgraph=True, dynamic=False)(x), attn(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("form", MARKED, ids=str)
def test_export_with_dynamic_batch_height_and_width(form):
    """Each side from 33 px: at 32 the last stage has one row, which PyTorch's graphs hold to be another case."""
    model = RMT(**SMALL, **form).eval()
    dynamic = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            model, (torch.randn(2, 3, 64, 64),), dynamic_shapes={"x": {0: dynamic, 2: dynamic, 3: dynamic}}
        )
        for size in ((1, 3, 33, 40), (3, 3, 70, 90), (2, 3, 33, 161)):
            x = torch.randn(*size)
            torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_whole_network_compiles(mode):
    torch.manual_seed(0)
    model = getattr(RMT(**TINY), mode)()
    compiled = torch.compile(model, fullgraph=True, dynamic=False)
    for size in ((2, 3, 64, 64), (1, 3, 70, 90)):
        x = torch.randn(*size)
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    compiled(x).sum().backward()
