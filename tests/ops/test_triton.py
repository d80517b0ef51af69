"""The Triton kernels against float64: on a GPU where there is one, otherwise in Triton's interpreter (conftest.py)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("triton", reason="Triton comes with PyTorch's CUDA builds")

from rmt.errors import RMTError
from rmt.model import ManhattanSelfAttention, create_model
from rmt.ops import (
    LayerNorm,
    Linear,
    MaSAConfig,
    add_layer_norm,
    depthwise_conv,
    layer_norm,
    manhattan_attention,
    masa,
    spatial_prior,
    use_backend,
)
from rmt.ops.call import allows_tf32
from rmt.ops.triton import attention_ops, backend, depthwise_ops, launch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ours, reference = backend.manhattan_attention, masa.manhattan_attention
LIMITS = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}

# (B, h, w, n, d): odd, not square, one token long, widths that fill no power of two; longer lines are below
SHAPES = [(2, 3, 14, 1, 16), (1, 5, 7, 2, 20), (2, 1, 9, 1, 32), (1, 17, 1, 1, 64), (1, 2, 18, 1, 6)]


@pytest.fixture(autouse=True)
def bfloat16_products(monkeypatch):
    """The interpreter keeps bfloat16 as integers and, up to Triton 3.8 at least, multiplies those in tl.dot."""
    if DEVICE == "cuda":
        return
    from triton.language import bfloat16, float32
    from triton.runtime import interpreter

    original = interpreter.InterpreterBuilder.create_dot

    def create_dot(self, a, b, *rest):
        if a.dtype == bfloat16:
            a, b = (self.create_fp_ext(t, float32) for t in (a, b))
        return original(self, a, b, *rest)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def config_of(shape, decomposed=True, half_split=False, **rest):
    return MaSAConfig(decomposed, "released", (2.0, 6.0), scale=shape[-1] ** -0.5, half_split=half_split, **rest)


def draw(shape, dtype=torch.float32, spread=1.0, seed=0):
    """q, k, v and the output's gradient, rounded to dtype; q and k with a spread."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v, dout = (torch.randn(shape, generator=generator) for _ in range(4))
    return [t.to(DEVICE, dtype) for t in (q * spread, k * spread, v, dout)]


def prior_of(shape, config, dtype):
    """A prior whose phases are those of float32, also in float64, since that rounding is part of the networks."""
    _, h, w, n, d = shape
    single = spatial_prior(h, w, n, d, config.decay_range, torch.empty(0, device=DEVICE), config.phases)
    if dtype != torch.float64:
        return single
    like = torch.empty(0, dtype=dtype, device=DEVICE)
    exact = spatial_prior(h, w, n, d, config.decay_range, like, config.phases)
    return exact._replace(sin=single.sin.double(), cos=single.cos.double())


def run(attention, config, inputs, dtype):
    q, k, v, dout = (t.detach().to(dtype) for t in inputs)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    out = attention(*leaves, prior_of(q.shape, config, dtype), config)
    return [t.double() for t in (out.detach(), *torch.autograd.grad(out, leaves, dout))]


def assert_close(found, expected, limit):
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=False):
        error = (a - b).abs().max() / b.abs().max().clamp(min=1e-30)
        assert error < limit, f"{name}: {error:.1e}"  # also fails for NaN


@pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "full"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equal_to_the_reference(shape, decomposed):
    for half_split in (False, True) if shape == SHAPES[0] else (shape[1] == 1,):
        config = config_of(shape, decomposed, half_split)
        inputs = draw(shape)
        assert_close(
            run(ours, config, inputs, torch.float32),
            run(reference, config, inputs, torch.float64),
            1e-5,
        )


@pytest.mark.parametrize(
    ("phases", "half_split"),
    [
        *(("axial", False), ("none", True)),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("axial", True), ("none", False))),
    ],
)
@pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "full"])
def test_other_phases(decomposed, phases, half_split):
    shape = SHAPES[1]
    config, inputs = config_of(shape, decomposed, half_split, phases=phases), draw(shape)
    expected = run(reference, config, inputs, torch.float64)
    assert_close(run(ours, config, inputs, torch.float32), expected, 1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "full"])
def test_half_precision(dtype, decomposed):
    shape = (2, 3, 6, 1, 16)
    config, inputs = config_of(shape, decomposed), draw(shape, dtype)
    assert_close(
        run(ours, config, inputs, dtype),
        run(reference, config, inputs, torch.float64),
        LIMITS[dtype],
    )


@pytest.mark.parametrize(
    ("along", "length"),
    [
        *((along, 65) for along in ("rows", "columns", "grid")),
        ("rows", 200),
        *(pytest.param(along, 200, marks=pytest.mark.slow) for along in ("columns", "grid")),
        *(pytest.param(along, 400, marks=pytest.mark.slow) for along in ("rows", "columns", "grid")),
    ],
)
def test_long_lines(along, length):
    """One pass over lines of several blocks, forward and backward, by itself."""
    from rmt.ops.triton.attention_ops import Attention

    height, width = {"rows": (1, length), "columns": (length, 1), "grid": (5, length // 5)}[along]
    shape = (1, height, width, 1, 16)
    config = config_of(shape, decomposed=along != "grid")
    expected = run(
        masa.manhattan_attention, config, draw(shape), torch.float64
    )  # a pass along one token changes nothing
    q, k, v, dout = draw(shape)
    prior = prior_of(shape, config, torch.float32)
    call = Attention(q, (prior.cos, prior.sin, prior.log_gamma), None, False, True, config.scale)
    turned = call.rotated(q), call.rotated(k)
    known = (*call.forward(q, turned[1], v, along, keep=True), *turned)
    gradients = tuple(torch.full_like(t, float("nan")) for t in (q, k, v))
    call.backward((q, k, v, dout), known, gradients, along, add=False)
    assert_close([t.double() for t in (known[0], *gradients)], expected, 1e-5)


@pytest.mark.parametrize(("shape", "decomposed"), [((1, 3, 9, 1, 16), True), ((1, 2, 35, 1, 16), False)], ids=str)
def test_extreme_logits(shape, decomposed):
    """Scores in the hundreds: one key takes all the weight, and nothing overflows."""
    config, inputs = config_of(shape, decomposed), draw(shape, spread=12.0)
    assert_close(
        run(ours, config, inputs, torch.float32),
        run(reference, config, inputs, torch.float64),
        1e-3,
    )


def test_strides(monkeypatch):
    """q, k and v as slices of one tensor, and a gradient whose grid is transposed in memory: read where they lie."""
    shape = (2, 4, 6, 2, 16)
    together = torch.randn(2, 4, 6, 3, 2, 16, device=DEVICE)
    q, k, v = together.unbind(3)
    dout = torch.randn(2, 6, 4, 2, 16, device=DEVICE).transpose(1, 2)
    config = config_of(shape, half_split=True)
    expected = run(reference, config, [t.contiguous() for t in (q, k, v, dout)], torch.float64)
    original = torch.Tensor.contiguous
    monkeypatch.setattr(torch.Tensor, "contiguous", lambda t: pytest.fail("copied") if t.dim() == 5 else original(t))
    assert_close(run(ours, config, (q, k, v, dout), torch.float32), expected, 1e-5)


def test_every_element_is_written(monkeypatch):
    """What the kernels write into starts as NaN; so does whatever lies between the slices of one tensor."""
    original = torch.Tensor.new_empty
    poisoned = []

    def new_empty(self, *args, **kwargs):
        poisoned.append(original(self, *args, **kwargs).fill_(float("nan")))
        return poisoned[-1]

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    for decomposed in (True, False):
        config, inputs = config_of((1, 5, 7, 2, 20), decomposed), draw((1, 5, 7, 2, 20))
        assert_close(
            run(ours, config, inputs, torch.float32),
            run(reference, config, inputs, torch.float64),
            1e-5,
        )
    assert len(poisoned) >= 8


def test_repeats_bit_for_bit():
    config, inputs = config_of((2, 6, 9, 1, 16)), draw((2, 6, 9, 1, 16))
    first, second = (run(ours, config, inputs, torch.float32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("tolerance", [pytest.param(1e-5, marks=pytest.mark.slow), 1e-2])
def test_windows_keep_their_promise(tolerance):
    """What is left out moves an output by at most its weight times the span of v, and something is left out."""
    shape = (1, 100, 2, 1, 16)
    q, k, v, _ = draw(shape, spread=0.5)
    exact, windowed = config_of(shape, False), config_of(shape, False, tolerance=tolerance)
    prior = prior_of(shape, exact, torch.float32)
    with torch.no_grad():
        reach = torch.ops.rmt.triton_window_radii(q, k, prior.log_gamma, windowed.scale, tolerance)
        difference = (ours(q, k, v, prior, windowed) - ours(q, k, v, prior, exact)).abs().max()
    assert 0 < reach[0] < 99
    assert difference <= tolerance * (v.max() - v.min()) + 1e-6
    if tolerance == 1e-2:
        assert difference > 1e-7


def test_window_along_a_line():
    """Keys farther than the reach weigh nothing: the same as attention in which they are not there."""
    from rmt.ops.triton.attention_ops import Attention

    shape, reach = (1, 1, 130, 1, 16), 20
    config, (q, k, v, _) = config_of((1, 1, 130, 1, 16)), draw((1, 1, 130, 1, 16))
    prior = prior_of(shape, config, torch.float32)
    reaches = torch.tensor([reach], dtype=torch.int32, device=DEVICE)
    call = Attention(q, (prior.cos, prior.sin, prior.log_gamma), reaches, False, True, config.scale)
    turned_q, turned_k = masa.rotate_queries_and_keys(q, k, prior, config)
    token = torch.arange(130, device=DEVICE)
    hidden = (token[:, None] - token).abs() > reach
    bias = prior.log_decay_w.masked_fill(hidden, -torch.inf)
    expected = masa.attend_along_width(turned_q, turned_k, v, bias, config)
    assert (call.forward(q, call.rotated(k), v, "rows")[0] - expected).abs().max() < 1e-5


PLUS = ("nothing", "itself", "another", "GELU", "GELU and itself")


@pytest.mark.parametrize(
    ("shape", "size", "plus"),
    [
        *(((2, 4, 3, 20), 5, plus) for plus in PLUS),
        *((*rest, PLUS[4]) for rest in (((1, 3, 5, 70), 3), ((1, 1, 3, 6), 5))),
        *(
            pytest.param(*rest, plus, marks=pytest.mark.slow)
            for rest in (((1, 3, 5, 70), 3), ((1, 1, 3, 6), 5))
            for plus in PLUS[:4]
        ),
    ],
    ids=str,
)
def test_depthwise(shape, size, plus):
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[3], shape[3], size, padding=size // 2, groups=shape[3]).to(DEVICE)
    x, other, dout = (torch.randn(shape, device=DEVICE) for _ in range(3))

    def results(function, dtype):
        layer = nn.Conv2d(shape[3], shape[3], size, padding=size // 2, groups=shape[3]).to(DEVICE, dtype)
        layer.load_state_dict(conv.state_dict())
        image, added = x.to(dtype).requires_grad_(), other.to(dtype).requires_grad_()
        with use_backend("triton"):
            out = function(
                image,
                layer,
                residual=plus.endswith("itself"),
                plus=added if plus == "another" else None,
                gelu=plus.startswith("GELU"),
            )
        leaves = [image, layer.weight, layer.bias] + ([added] if plus == "another" else [])
        return [t.double() for t in (out.detach(), *torch.autograd.grad(out, leaves, dout.to(dtype)))]

    expected = results(masa.depthwise_conv, torch.float64)
    for found, exact in zip(results(depthwise_conv, torch.float32), expected, strict=True):
        assert (found - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_depthwise_in_autocast_keeps_the_residual_in_float32():
    conv, x = nn.Conv2d(16, 16, 3, padding=1, groups=16).to(DEVICE), torch.randn(1, 4, 5, 16, device=DEVICE)
    with use_backend("triton"), torch.autocast(DEVICE, torch.bfloat16), torch.no_grad():
        assert depthwise_conv(x, conv, residual=True).dtype == torch.float32
        assert depthwise_conv(x, conv).dtype == torch.bfloat16


@pytest.mark.parametrize("channels", [16, 20, 160])
def test_layer_norm(channels):
    torch.manual_seed(0)
    x = (torch.randn(2, 3, 5, channels) * 3 + 2).to(DEVICE)
    like, dout = LayerNorm(channels, eps=1e-6), torch.randn(2, 3, 5, channels, device=DEVICE)
    torch.nn.init.normal_(like.weight), torch.nn.init.normal_(like.bias)

    def results(kind, without_weights, dtype):
        norm, tokens = kind(channels, eps=1e-6).to(DEVICE, dtype), x.to(dtype).requires_grad_()
        norm.load_state_dict(like.state_dict())
        with use_backend("triton"):
            out, plain = norm(tokens), without_weights(tokens.detach())
        return out, plain, *torch.autograd.grad(out, [tokens, norm.weight, norm.bias], dout.to(dtype))

    exact = results(nn.LayerNorm, lambda x: nn.functional.layer_norm(x, (channels,), eps=1e-6), torch.float64)
    for found, expected in zip(results(LayerNorm, layer_norm, torch.float32), exact, strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_layer_norm_that_adds(dtype):
    """The sum is that of PyTorch, bit for bit, and the LayerNorm that of the rounded sum."""
    torch.manual_seed(0)
    x, y = (torch.randn(2, 3, 5, 20, device=DEVICE).to(dtype) for _ in range(2))
    with use_backend("triton"), torch.no_grad():
        total, out = add_layer_norm(x, y)
    assert torch.equal(total, x + y)
    exact = nn.functional.layer_norm(total.double(), (20,), eps=1e-6)
    assert (out - exact).abs().max() <= {torch.float32: 1e-5, torch.float16: 2e-3}[dtype] * exact.abs().max()


def test_layer_norm_in_autocast_rounds_once():
    """PyTorch's float32 result, rounded (the interpreter cuts off), and its gradients, with nothing but x kept."""
    norm, x = (
        LayerNorm(32).to(DEVICE),
        torch.randn(1, 4, 5, 32, device=DEVICE, dtype=torch.bfloat16, requires_grad=True),
    )
    kept = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t)
    with use_backend("triton"), torch.autocast(DEVICE, torch.bfloat16), hooks:
        out = norm(x)
    expected = torch.nn.functional.layer_norm(x.float(), (32,), norm.weight, norm.bias)
    assert out.dtype == torch.bfloat16
    assert ((out - expected).abs() <= 2**-7 * expected.abs()).all()
    assert [t.data_ptr() for t in kept] == [x.data_ptr(), norm.weight.data_ptr()]
    dout = torch.randn(x.shape, device=DEVICE)
    dx, dx_expected = (torch.autograd.grad((y * dout).sum(), x)[0] for y in (out, expected))
    assert (dx - dx_expected).abs().max() <= 1e-2 * dx_expected.abs().max()


@pytest.mark.parametrize("tokens", [1, 700])
@pytest.mark.parametrize("widths", [(16, 24), (20, 300)], ids=str)
def test_linear(tokens, widths):
    torch.manual_seed(0)
    x, dout = torch.randn(tokens, 1, widths[0], device=DEVICE), torch.randn(tokens, 1, widths[1], device=DEVICE)
    like = Linear(*widths)

    def results(kind, dtype):
        layer, rows = kind(*widths).to(DEVICE, dtype), x.to(dtype).requires_grad_()
        layer.load_state_dict(like.state_dict())
        with use_backend("triton"):
            out = layer(rows)
        return out, *torch.autograd.grad(out, [rows, layer.weight, layer.bias], dout.to(dtype))

    for found, expected in zip(results(Linear, torch.float32), results(nn.Linear, torch.float64), strict=True):
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("decomposed", [False, True])
def test_a_gradient_can_be_differentiated_again(decomposed):
    """By the plain formula: the sum of squares of all gradients, differentiated."""
    torch.manual_seed(0)
    shape = (1, 3, 4, 1, 16)
    inputs = [torch.randn(shape, device=DEVICE, requires_grad=True) for _ in range(3)]
    prior, config = spatial_prior(3, 4, 1, 16, (2.0, 6.0), inputs[0]), config_of(shape, decomposed)
    conv = nn.Conv2d(16, 16, 3, padding=1, groups=16, device=DEVICE)
    norm = nn.LayerNorm(16, device=DEVICE)

    def second(attention, convolve, normalise):
        tokens = attention(*inputs, prior, config).flatten(3)
        tokens = normalise(convolve(tokens, conv, residual=True, plus=tokens, gelu=True, shift=None))
        first = torch.autograd.grad(tokens.square().sum() + tokens.sin().sum(), inputs, create_graph=True)
        wanted = [*inputs, conv.weight, conv.bias, norm.weight]
        return torch.autograd.grad(sum(gradient.square().sum() for gradient in first), wanted)

    normalise = lambda x: backend.layer_norm(x, norm.weight, norm.bias, norm.eps, torch.float32)  # noqa: E731
    for found, expected in zip(
        second(ours, backend.depthwise_conv, normalise), second(reference, masa.depthwise_conv, norm), strict=True
    ):
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_compiled_without_breaks_and_exported():
    """A block of the network, forward and gradient; the graphs contain the operators."""
    block = create_model("rmt_pico", num_classes=3).stages[0].blocks[0].to(DEVICE)
    x = torch.randn(1, 2, 3, 32, device=DEVICE, requires_grad=True)
    prior = block.attn.prior(2, 3, x)
    with use_backend("triton"):
        expected = block(x, prior)
        compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=False)
        found = compiled(x, prior)
        for loss in (expected, found):
            loss.sum().backward()
        assert (found - expected).abs().max() < 1e-5
        with torch.no_grad():
            program = torch.export.export(block.eval(), (x.detach(), prior))
            assert (program.module()(x.detach(), prior) - block(x, prior)).abs().max() < 1e-5
    assert "rmt.triton_attention.default" in [str(node.target) for node in program.graph.nodes]


def test_a_grid_of_any_image_fits():
    """CUDA's grids end at 65,535 in all dimensions but the first."""
    axis = attention_ops._Axis((1, 2100, 2100, 4, 16), "rows")
    for kernel in ("forward", "queries", "keys"):
        (programs, *rest), _, _ = axis.long(kernel, limited=False)
        assert programs > 65_535 and max(rest) == 1


def test_tf32_is_what_the_newer_setting_says():
    """After the newer setting was used, reading the older one raises."""
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("PyTorch before 2.9 has one setting")
    before = matmul.fp32_precision
    try:
        for name, allowed in (("tf32", True), ("ieee", False)):
            matmul.fp32_precision = name
            assert allows_tf32() == allowed
    finally:
        matmul.fp32_precision = before


newer = pytest.mark.skipif(not backend.supports_depthwise(), reason="Triton 3.3 and newer, of PyTorch 2.7")


@newer
def test_the_kernels_compile_for_a_gpu_that_is_not_there():
    """For an H100, by the real compiler. float64 arithmetic in them would be a mistake, and slow."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("compile_kernels.py")
    done = subprocess.run([sys.executable, str(script), "90"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    compiled = {line.split()[0].removeprefix("rmt.ops.triton.") for line in done.stdout.splitlines()}
    assert compiled == {
        *(
            "lines.forward",
            "lines.backward",
            "long.rotate",
            "long.forward",
            "long.backward_queries",
            "long.backward_keys",
        ),
        *("depthwise.depthwise", "depthwise.depthwise_weight_gradient"),
        *("norm.layer_norm", "norm.add_layer_norm", "norm.layer_norm_backward"),
    }
    assert "float64" not in done.stdout


class Recorder:
    """Stands for a Triton kernel, and for what Triton compiles of it: notes what each is called with."""

    def __init__(self, arg_names=("x", "y", "n", "TILE", "FLIP")):
        self.arg_names, self.calls, self.compiled = arg_names, [], None

    def __getitem__(self, grid):
        def call(*args, **options):
            self.calls.append((grid, args, options))
            self.compiled = Recorder()
            return self.compiled

        return call


@newer
def test_a_call_like_an_earlier_one_goes_to_its_compiled_kernel(monkeypatch):
    monkeypatch.setattr(launch, "interpreted", lambda: False)
    kernel, numbers = Recorder(), torch.arange(40.0, device=DEVICE)
    x, y = numbers[:16], numbers[16:32]  # 64 bytes apart
    launch.launch_eager(kernel, (1, 1, 1), x, y, 7, FLIP=True, TILE=16, num_warps=4)
    assert kernel.calls == [((1, 1, 1), (x, y, 7), dict(FLIP=True, TILE=16, num_warps=4, num_stages=3))]
    launch.launch_eager(kernel, (2, 3), y, x, 7, FLIP=True, TILE=16, num_warps=4)
    assert len(kernel.calls) == 1
    assert kernel.compiled.calls == [((2, 3, 1), (y, x, 7, 16, True), {})]  # constants in the kernel's order
    unlike = [
        ((x, y, 8), dict(FLIP=True, TILE=16, num_warps=4)),
        ((x, y, 7), dict(FLIP=False, TILE=16, num_warps=4)),
        ((x, y, 7), dict(FLIP=True, TILE=16, num_warps=8)),
        ((x, y.half(), 7), dict(FLIP=True, TILE=16, num_warps=4)),
        ((x, numbers[17:33], 7), dict(FLIP=True, TILE=16, num_warps=4)),  # not aligned to 16 bytes
    ]
    for times, (args, options) in enumerate(unlike, start=2):
        launch.launch_eager(kernel, (1, 1, 1), *args, **options)
        assert len(kernel.calls) == times


def test_compiled_programs_pass_numbers_that_stay_exact():
    """PyTorch's compiler passes a float to a kernel as float64, which the kernel's arithmetic then becomes."""
    passed = []

    def note(kernel, grid, *args, num_warps, num_stages=3, maxnreg=None, **constants):
        passed.extend(args)

    shape = (1, 3, 70, 1, 16)
    q, k, v, dout = draw(shape)
    prior = prior_of(shape, config_of(shape), torch.float32)
    constants = (True, False, True, 0.25)
    attention_ops.forward(note, q, k, v, prior.cos, prior.sin, prior.log_gamma, None, *constants)
    attention_ops.backward(note, dout, q, k, v, prior.cos, prior.sin, prior.log_gamma, *constants)
    x = q.flatten(-2)
    depthwise_ops.convolve(note, x, torch.zeros(16, 1, 3, 3), None, None, x.dtype, True, False)
    assert passed and {type(value) for value in passed} == {torch.Tensor, int}


def test_what_it_cannot_do_is_said():
    q = torch.zeros(1, 2, 2, 1, 16, device=DEVICE)
    config = config_of(q.shape)
    prior = prior_of(q.shape, config, torch.float32)
    for inputs, asked, reason in [
        (q.double(), config, "float64"),
        (q, config._replace(decay="paper"), "after the softmax"),
        (q.expand(1, 2, 2, 1, 16).repeat(1, 1, 1, 1, 10), config, "at most 128 channels"),
    ]:
        with use_backend("triton"), pytest.raises(RMTError, match=reason):
            manhattan_attention(inputs, inputs, inputs, prior, asked)


def test_older_tritons_leave_convolutions_to_pytorch(monkeypatch):
    monkeypatch.setattr("triton.__version__", "3.3.1")
    assert backend.supports_depthwise()
    monkeypatch.setattr("triton.__version__", "3.2.0")
    assert not backend.supports_depthwise()


def test_the_module_uses_it():
    attention = ManhattanSelfAttention(32, 2).to(DEVICE)
    x = torch.randn(1, 3, 5, 32, device=DEVICE)
    with torch.no_grad():
        with use_backend("plain"):
            expected = attention(x)
        with use_backend("triton"):
            assert (attention(x) - expected).abs().max() < 1e-5
