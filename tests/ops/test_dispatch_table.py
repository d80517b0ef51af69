"""Which implementation serves which call: the whole table, and what `tracing` answers under each tracer."""

import itertools

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from rmt.errors import RMTError
from rmt.ops import MaSAConfig, use_backend
from rmt.ops.call import KNOWS_EXPORT, Call, tracing
from rmt.ops.cpu import backend as cpu
from rmt.ops.dispatch import MAX_SCORES, choose
from rmt.ops.triton import backend as triton

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

# `any` stands for every value that has no line of its own above it.
TABLE = """
| op         | device | dtype   | grad | eager  | fake   | compile | export |
| attention  | cpu    | float64 | any  | plain  | plain  | plain   | plain  |
| attention  | cpu    | any     | any  | native | native | native  | plain  |
| attention  | cuda   | float64 | any  | plain  | plain  | plain   | plain  |
| attention  | cuda   | any     | any  | triton | triton | triton  | plain  |
| attention  | any    | any     | any  | plain  | plain  | plain   | plain  |
| depthwise  | cpu    | float64 | any  | plain  | plain  | plain   | plain  |
| depthwise  | cpu    | any     | any  | native | native | native  | plain  |
| depthwise  | cuda   | float64 | any  | plain  | plain  | plain   | plain  |
| depthwise  | cuda   | any     | any  | triton | triton | triton  | plain  |
| depthwise  | any    | any     | any  | plain  | plain  | plain   | plain  |
| layer_norm | cpu    | float64 | any  | plain  | plain  | plain   | plain  |
| layer_norm | cpu    | float32 | yes  | plain  | plain  | plain   | plain  |
| layer_norm | cpu    | any     | any  | native | plain  | plain   | plain  |
| layer_norm | cuda   | float64 | any  | plain  | plain  | plain   | plain  |
| layer_norm | cuda   | any     | any  | triton | plain  | plain   | plain  |
| layer_norm | any    | any     | any  | plain  | plain  | plain   | plain  |
| linear     | cpu    | float64 | any  | plain  | plain  | plain   | plain  |
| linear     | cpu    | float32 | any  | native | plain  | plain   | plain  |
| linear     | cpu    | any     | no   | native | plain  | plain   | plain  |
| linear     | cuda   | float64 | any  | plain  | plain  | plain   | plain  |
| linear     | cuda   | any     | no   | plain  | plain  | plain   | plain  |
| linear     | cuda   | any     | yes  | triton | plain  | plain   | plain  |
| linear     | any    | any     | any  | plain  | plain  | plain   | plain  |
"""
OPS = ("attention", "depthwise", "layer_norm", "linear")
DEVICES = ("cpu", "cuda", "mps", "meta")
DTYPES = ("float32", "float64", "bfloat16", "float16")
TRACING = ("eager", "fake", "compile", "export")
CONFIG = MaSAConfig(True, "released", (2.0, 6.0), scale=0.25)


def call(op="attention", device="cpu", dtype=torch.float32, grad=False, traced="eager", **rest) -> Call:
    """A call of RMT-S's first stage at 224²."""
    rest = dict(dtypes=(dtype,), shape=(1, 56, 56, 4, 16) if op == "attention" else (1, 56, 56, 64)) | rest
    if op == "attention":
        rest = dict(config=CONFIG) | rest
    if op == "depthwise":
        rest = dict(kernel_size=3) | rest
    return Call(op, device, needs_grad=grad, tracing=traced, **rest)


def rows() -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in TABLE.strip().splitlines()[1:]]


@pytest.fixture(autouse=True)
def fast_linear_layers(monkeypatch):
    """The table is that of a processor on which oneDNN's linear layers are the faster ones, see `cpu/linear.py`."""
    monkeypatch.setattr(cpu, "slower_than_pytorch", lambda dtype: None)


def test_mps_takes_the_readable_operators():
    """And attention in blocks where there are many scores; a forced kernel is refused in one line."""
    assert {choose(call(op, "mps", grad=grad)) for op in OPS for grad in (False, True)} == {"plain"}
    assert choose(call(device="mps", shape=(1, 448, 448, 4, 16))) == "blockwise"
    with use_backend("native"), pytest.raises(RMTError, match="it runs on a CPU, not on mps"):
        choose(call(device="mps"))


@pytest.mark.parametrize("op", OPS)
def test_the_table(op):
    used = set()
    for device, dtype, grad in itertools.product(DEVICES, DTYPES, (False, True)):
        asked = (op, device, dtype, "yes" if grad else "no")
        line = next(row for row in rows() if all(a in (b, "any") for a, b in zip(row[:4], asked, strict=True)))
        used.add(tuple(line))
        found = [choose(call(op, device, getattr(torch, dtype), grad, traced)) for traced in TRACING]
        assert found == line[4:], asked
    assert used == {tuple(row) for row in rows() if row[0] == op}, "a line of the table that no call reaches"


PAPER, WINDOWED = CONFIG._replace(decay="paper"), CONFIG._replace(tolerance=1e-3)
LARGE = (1, 400, 400, 4, 16)  # 400³·4 scores, decomposed
SPECIAL = {
    "native: decay after the softmax": (call(config=PAPER), "plain"),
    "triton: decay after the softmax": (call(device="cuda", config=PAPER), "plain"),
    "native: windows": (call(config=WINDOWED), "native"),
    "triton: windows": (call(device="cuda", config=WINDOWED), "triton"),
    "native: windows and gradients": (call(config=WINDOWED, grad=True), "plain"),
    "triton: windows and gradients": (call(device="cuda", config=WINDOWED, grad=True), "plain"),
    "triton: wide heads": (call(device="cuda", shape=(1, 8, 8, 2, 160)), "plain"),
    "triton: 64-bit offsets": (call(device="cuda", image_stride=2**31), "plain"),
    "triton: 64-bit offsets, depthwise": (call("depthwise", "cuda", image_stride=2**31), "plain"),
    "native: several dtypes": (call(dtypes=(torch.bfloat16, torch.bfloat16, torch.float32)), "plain"),
    "triton: several dtypes": (call(device="cuda", dtypes=(torch.float16, torch.float32, torch.float32)), "plain"),
    "native: many scores": (call(shape=LARGE), "native"),
    "many scores": (call(dtype=torch.float64, shape=LARGE), "blockwise"),
    "many scores elsewhere": (call(device="mps", shape=LARGE), "blockwise"),
    "many scores of fake tensors": (call(dtype=torch.float64, shape=LARGE, traced="fake"), "blockwise"),
    "many scores without data": (call(device="meta", shape=LARGE, traced="fake"), "plain"),
    "many scores, compiled": (call(dtype=torch.float64, shape=LARGE, traced="compile"), "plain"),
    "many scores, exported": (call(shape=LARGE, traced="export"), "plain"),
    "many scores of the paper's form": (call(config=PAPER, shape=LARGE), "blockwise"),
    "many scores without softmax": (call(config=CONFIG._replace(softmax=False), shape=LARGE), "blockwise"),
    "native: no softmax": (call(config=CONFIG._replace(softmax=False)), "plain"),
    "triton: no softmax": (call(device="cuda", config=CONFIG._replace(softmax=False)), "plain"),
    "native: channels that fill no vector": (call("depthwise", shape=(1, 8, 8, 24)), "plain"),
    "native: autocast": (call("depthwise", dtypes=(torch.float32, torch.float32, torch.bfloat16)), "native"),
    "native: mixed dtypes": (call("depthwise", dtypes=(torch.float32, torch.float64, torch.float32)), "plain"),
    "triton: autocast": (
        call("depthwise", "cuda", dtypes=(torch.float32, torch.float32, torch.bfloat16)),
        "triton",
    ),
    "native: channels of a LayerNorm that fill no vector": (call("layer_norm", shape=(1, 8, 8, 24)), "plain"),
    "native: autocast changes a LayerNorm's dtype": (
        call("layer_norm", dtypes=(torch.float32, torch.bfloat16), grad=True),
        "native",
    ),
    "native: no scale and shift, gradients": (
        call("layer_norm", dtype=torch.bfloat16, grad=True, affine=False),
        "plain",
    ),
    "native: autocast changes a linear layer's dtype": (
        call("linear", dtypes=(torch.bfloat16, torch.float32, torch.bfloat16)),
        "plain",
    ),
    "triton: no scale and shift": (call("layer_norm", "cuda", affine=False), "triton"),
    "triton: no scale and shift, gradients": (call("layer_norm", "cuda", grad=True, affine=False), "plain"),
}


def test_amd_gpus_take_the_readable_operators(monkeypatch):
    """PyTorch calls them cuda."""
    monkeypatch.setattr(torch.version, "hip", "6.4")
    monkeypatch.setattr(triton, "interpreted", lambda: False)
    assert {choose(call(op, "cuda", grad=grad)) for op in OPS for grad in (False, True)} == {"plain"}


@pytest.mark.parametrize(("asked", "expected"), SPECIAL.values(), ids=SPECIAL)
def test_special_cases(asked, expected):
    assert choose(asked) == expected


def test_the_threshold_of_many_scores():
    heads = MAX_SCORES // (64 * 64 * 64)
    assert choose(call(dtype=torch.float64, shape=(1, 64, 64, heads, 16))) == "plain"
    assert choose(call(dtype=torch.float64, shape=(1, 64, 64, heads + 1, 16))) == "blockwise"
    full = CONFIG._replace(decomposed=False)
    assert choose(call(dtype=torch.float64, shape=(1, 64, 64, heads, 16), config=full)) == "blockwise"


@pytest.mark.parametrize("name", ["plain", "sdpa", "flex", "blockwise", "native"])
def test_a_forced_backend_serves_attention_and_what_it_has(name):
    """Where it has no such operation, PyTorch's serves; meta tensors are shapes alone, whatever is forced."""
    with use_backend(name):
        assert choose(call()) == name
        assert choose(call("depthwise")) == ("native" if name == "native" else "plain")
        assert choose(call("depthwise", "cuda")) == choose(call("layer_norm", "cuda")) == "plain"
        assert choose(call("linear", "cuda", grad=True)) == "plain"
        assert choose(call(device="meta", traced="fake")) == "plain"


def test_triton_forced_on_a_gpu():
    with use_backend("triton"):
        found = [choose(call(op, "cuda", grad=True)) for op in OPS]
        assert found == ["triton"] * 4
        assert choose(call(device="cuda", traced="export")) == "triton"  # asked for: the program depends on Triton
        assert choose(call("depthwise", "cuda", traced="export")) == "plain"


def test_a_forced_backend_that_cannot_serve_attention_is_an_error():
    for name, asked in [
        ("native", call(device="cuda")),
        ("native", call(traced="export")),
        ("flex", call(grad=True)),
        ("sdpa", call(config=CONFIG._replace(decomposed=False))),
        ("blockwise", call(traced="compile")),
        ("triton", call(device="cuda", dtype=torch.float64)),
        ("nonsense", call()),
    ]:
        with use_backend(name), pytest.raises(RMTError, match=f"RMT_BACKEND={name}"):
            choose(asked)


class Asks(torch.nn.Module):
    """Adds to x the place in TRACING of what `tracing` answers."""

    def forward(self, x):
        return x + TRACING.index(tracing(x))


def test_tracing_in_eager_mode_and_with_tensors_without_data():
    x = torch.zeros(2)
    assert tracing(x) == tracing(torch.nn.Parameter(x)) == "eager"
    assert tracing(x.to("meta")) == "fake"
    with FakeTensorMode() as mode:
        assert tracing(torch.zeros(2)) == "fake"
    assert tracing(mode.from_tensor(x)) == "fake"
    with FlopCounterMode(display=False):
        assert tracing(x) == "fake"


def test_tracing_under_compile():
    expected = "compile" if KNOWS_EXPORT else "export"  # PyTorch 2.6 does not tell them apart
    compiled = torch.compile(Asks(), backend="aot_eager", fullgraph=True)
    assert TRACING[int(compiled(torch.zeros(1)))] == expected


@pytest.mark.parametrize("strict", [False, True])
def test_tracing_under_export(strict):
    program = torch.export.export(Asks(), (torch.zeros(1),), strict=strict)
    assert TRACING[int(program.module()(torch.zeros(1)))] == "export"


def test_tracing_under_jit_trace():
    traced = torch.jit.trace(Asks(), torch.zeros(1), check_trace=False)
    assert TRACING[int(traced(torch.zeros(1)))] == "export"
