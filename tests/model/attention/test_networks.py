"""Networks with another attention in MaSA's place: built, trained, compiled, exported, deployed, saved."""

import json

import pytest
import timm
import torch
from helpers.networks import TINY
from safetensors import safe_open
from safetensors.torch import save_file

import rmt
from rmt.model import RMT, count_macs, create_model, load_model, save_checkpoint
from rmt.model.rmt import ATTENTIONS

OTHERS = [name for name in ATTENTIONS if name != "masa"]
LOOPS = ("retention_recurrent", "retention_chunkwise")  # over tokens or chunks, which export counts
SMALL = TINY | dict(depths=(1, 1), dims=(16, 32), num_heads=(2, 2), mlp_ratios=(2, 2), layer_scales=(None, 1e-6))
SMALL |= dict(decomposed=(True, False), decay_ranges=((2, 6), (2, 6)), head_hidden_dim=32)


def small(attention, **options) -> RMT:
    torch.manual_seed(0)
    return RMT(**SMALL, attention=attention, **options)


def test_there_is_one_of_each_kind():
    assert set(OTHERS) == {
        "retention",
        "retention_recurrent",
        "retention_chunkwise",
        "retention_bidirectional",
        "window",
        "neighborhood",
    }


@pytest.mark.parametrize("name", OTHERS)
def test_each_is_another_function_of_the_same_parameters(name):
    model, masa = small(name), small("masa")
    model.load_state_dict(masa.state_dict())
    for parameter in (*model.parameters(), *masa.parameters()):
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    x = torch.randn(2, 3, 64, 50)
    found, expected = model.eval()(x), masa.eval()(x)
    assert (found - expected).abs().max() > 1e-4 * expected.abs().max()
    model.train()(x).sum().backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("name", OTHERS)
def test_gradients(name):
    torch.manual_seed(0)
    attn = ATTENTIONS[name](8, 2, **({} if ATTENTIONS[name].window_size is None else {"window_size": 3})).double()
    x = torch.randn(1, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(attn, (x,))


@pytest.mark.parametrize("name", OTHERS)
def test_low_precision_keeps_the_dtype(name):
    model, x = small(name).eval(), torch.randn(2, 3, 70, 45)
    with torch.no_grad():
        expected = model(x)
        found = model.bfloat16()(x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("name", OTHERS)
def test_under_autocast(name):
    model, x = small(name).train(), torch.randn(2, 3, 64, 45)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x).float().square().mean()
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_deploy(name, gate):
    if gate and not name.startswith("retention"):
        return
    model, x = small(name, gate=gate).eval().double(), torch.randn(2, 3, 64, 45, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(rmt.deploy(model)(x), model(x), rtol=1e-10, atol=1e-10)


def quick(*names: str) -> list:
    """These in the default suite, the others with the slow tests: capturing a graph takes seconds."""
    return [pytest.param(n, marks=[] if n in names else pytest.mark.slow) for n in OTHERS]


@pytest.fixture
def _reset():
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_reset")
@pytest.mark.parametrize("name", quick("window"))
def test_no_graph_break(name):
    torch.manual_seed(0)
    attn = ATTENTIONS[name](16, 2).train()
    compiled = torch.compile(attn, fullgraph=True, backend="aot_eager", dynamic=False)
    x = torch.randn(2, 2, 8, 16)
    torch.testing.assert_close(compiled(x), attn(x), rtol=1e-5, atol=1e-6)
    compiled(x).sum().backward()


@pytest.mark.parametrize("name", quick("neighborhood"))
def test_export_with_dynamic_batch_height_and_width(name):
    """On two or more windows to each side: PyTorch exports one window as another graph."""
    if name in LOOPS:
        pytest.skip("a loop over tokens is exported for one size")
    attn, dynamic = ATTENTIONS[name](16, 2).eval(), torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            attn, (torch.randn(2, 16, 16, 16),), dynamic_shapes={"x": {0: dynamic, 1: dynamic, 2: dynamic}}
        )
        for size in ((1, 9, 10, 16), (3, 18, 23, 16)):
            x = torch.randn(*size)
            torch.testing.assert_close(program.module()(x), attn(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", LOOPS)
def test_export_of_the_loops_with_one_size(name):
    attn, x = ATTENTIONS[name](16, 2).eval(), torch.randn(1, 2, 8, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.export.export(attn, (x,)).module()(x), attn(x), rtol=1e-5, atol=1e-6)


def test_one_name_for_each_stage():
    model = timm.create_model("rmt_pico", attention=("window", "masa", "neighborhood", "retention"), window_size=5)
    attentions = [stage.blocks[0].attn for stage in model.stages]
    assert [type(attention) for attention in attentions] == [ATTENTIONS[name] for name in model.model_args["attention"]]
    assert [attention.window_size for attention in attentions] == [5, None, 5, None]


def test_a_model_file_says_which(tmp_path):
    model = timm.create_model("rmt_pico", attention="window", window_size=3, num_classes=4).eval()
    save_checkpoint(model, tmp_path / "m.safetensors", classes=list("abcd"))
    loaded, metadata = load_model(tmp_path / "m.safetensors")
    assert metadata["model_args"]["attention"] == "window" and metadata["model_args"]["window_size"] == 3
    x = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attention="linear"), "attention='linear' is not one of"),
        (dict(attention=["window", "masa"]), "nor 4, one per stage"),
        (dict(attention="retention"), "window_size=3: attention=.* has no windows"),
        (dict(window_size=2**20), "does not lie in 1 to 64"),
    ],
    ids=str,
)
def test_a_file_that_asks_for_another_is_refused_in_one_line(tmp_path, changes, message):
    model = timm.create_model("rmt_pico", attention="window", window_size=3, num_classes=4)
    save_checkpoint(model, tmp_path / "m.safetensors", classes=list("abcd"))
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        metadata = json.loads(file.metadata()["rmt"])
    metadata["model_args"] |= changes
    save_file(model.state_dict(), tmp_path / "odd.safetensors", {"rmt": json.dumps(metadata)})
    with pytest.raises(rmt.RMTError, match=message) as error:
        load_model(tmp_path / "odd.safetensors")
    assert "\n" not in str(error.value)


MACS_PER_BLOCK = {
    # N tokens, C channels, d of a head; L tokens of a window: both products
    "retention": lambda n, c, d: 2 * n * n * c,
    "retention_bidirectional": lambda n, c, d: 2 * n * n * c,
    "retention_recurrent": lambda n, c, d: 2 * n * d * c,
    "retention_chunkwise": lambda n, c, d: 2 * n * 49 * c + 2 * n * d * c,
    "window": lambda n, c, d: 2 * n * 49 * c,
    "neighborhood": lambda n, c, d: 2 * n * 49 * c,
}


@pytest.mark.parametrize("name", OTHERS)
def test_multiply_adds(name):
    """At 28 × 28 tokens, of which windows of 7 need no padding."""
    network = RMT(**SMALL | dict(dims=(32,), depths=(1,), num_heads=(4,), mlp_ratios=(2,), layer_scales=(None,)))
    masa, other = network.stages[0].blocks[0].attn, ATTENTIONS[name](32, 4)
    projections = count_macs(network, 112, 112) - 2 * 28 * 28 * 28 * 2 * 32
    network.stages[0].blocks[0].attn = other
    assert count_macs(network, 112, 112) - projections == MACS_PER_BLOCK[name](28 * 28, 32, 8)
    assert [(n, p.shape) for n, p in other.named_parameters()] == [(n, p.shape) for n, p in masa.named_parameters()]


@pytest.mark.parametrize(
    ("options", "macs"),
    [
        (dict(attention="retention"), 9.31),  # 10.9 in the table, see docs/paper-vs-code.md
        (dict(attention="retention_chunkwise", window_size=2), 4.66),
        (dict(attention="retention_chunkwise"), 4.84),
        (dict(), 4.78),
    ],
    ids=str,
)
def test_table_8(options, macs):
    model = create_model("rmt_small", device="meta", **options)
    assert round(count_macs(model, 224, 224) / 1e9, 2) == macs


def test_the_variants_take_them():
    for name in ("rmt_swin_tiny", "rmt_deit_small"):
        model = create_model(name, attention="window", device="meta")
        assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)
