"""Every backend against the reference implementations in float64, forward and gradients; compile and export."""

import itertools

import pytest
import torch

from rmt.errors import RMTError
from rmt.model import ManhattanSelfAttention
from rmt.ops import (
    BACKENDS,
    MaSAConfig,
    depthwise_conv,
    dispatch,
    fuses_gelu,
    manhattan_attention,
    masa,
    register_backend,
    spatial_prior,
    use_backend,
)
from rmt.ops.call import KNOWS_EXPORT
from rmt.ops.torch import blockwise

# (B, h, w, n, d): not square, sides of 1, 7 to 70 tokens, widths that fill no whole vector, more tokens than one chunk
SHAPES = [
    (2, 7, 9, 3, 16),
    (1, 1, 5, 2, 16),
    (1, 6, 1, 2, 32),
    (2, 14, 14, 2, 20),
    (1, 5, 70, 1, 64),
    (1, 3, 300, 1, 6),
]
# Flex compiles, see below; Triton runs on a GPU or slowly, see test_triton.py
reference = masa.manhattan_attention
FAST = [name for name in BACKENDS if name not in ("plain", "flex", "triton")]


def make(shape, dtype=torch.float32, spread=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, k, v, upstream = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(4))
    return [t.to(dtype) for t in (q * spread, k * spread, v, upstream)]


def config_of(shape, *, decomposed=True, decay="released", **rest):
    return MaSAConfig(decomposed, decay, (2.0, 6.0), scale=shape[-1] ** -0.5, **rest)


def prior_of(shape, config, like):
    return spatial_prior(*shape[1:], config.decay_range, like, config.phases)


def run(backend, config, q, k, v, upstream):
    """Output and gradients, in float64."""
    q, k, v = (t.detach().clone().requires_grad_() for t in (q, k, v))
    prior = prior_of(q.shape, config, torch.empty(0))  # phases are float32 by definition
    if q.dtype == torch.float64:
        exact = prior_of(q.shape, config, q)
        prior = exact._replace(sin=prior.sin.double(), cos=prior.cos.double())
    out = backend(q, k, v, prior, config)
    out.backward(upstream)
    return [t.double() for t in (out.detach(), q.grad, k.grad, v.grad)]


def assert_close(found, expected, tolerance):
    for name, a, b in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        error = (a - b).abs().max() / b.abs().max().clamp(min=1e-30)
        assert error < tolerance, f"{name}: {error:.1e}"  # also fails for NaN


@pytest.mark.parametrize("half_split", [False, True], ids=["adjacent", "half-split"])
@pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "full"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FAST)
def test_equal_to_the_reference(name, shape, decomposed, half_split):
    config = config_of(shape, decomposed=decomposed, half_split=half_split)
    expected = run(reference, config, *make(shape, torch.float64))
    assert_close(run(BACKENDS[name], config, *make(shape)), expected, 1e-5)


@pytest.mark.parametrize("name", ["sdpa", "blockwise"])
@pytest.mark.parametrize("decomposed", [True, False])
def test_float64(name, decomposed):
    config = config_of(SHAPES[0], decomposed=decomposed)
    inputs = make(SHAPES[0], torch.float64)
    assert_close(run(BACKENDS[name], config, *inputs), run(reference, config, *inputs), 1e-12)


@pytest.mark.parametrize("name", FAST)
def test_without_decay(name):
    config = config_of(SHAPES[0], decay="none")
    assert_close(
        run(BACKENDS[name], config, *make(SHAPES[0])),
        run(reference, config, *make(SHAPES[0], torch.float64)),
        1e-5,
    )


@pytest.mark.parametrize("phases", ["axial", "none"])
@pytest.mark.parametrize("half_split", [False, True], ids=["adjacent", "half-split"])
@pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "full"])
@pytest.mark.parametrize("name", FAST)
def test_other_phases(name, decomposed, half_split, phases):
    for shape in (SHAPES[0], SHAPES[3], SHAPES[-1]):
        config = config_of(shape, decomposed=decomposed, half_split=half_split, phases=phases)
        expected = run(reference, config, *make(shape, torch.float64))
        assert_close(run(BACKENDS[name], config, *make(shape)), expected, 1e-5)


@pytest.mark.parametrize("name", FAST)
def test_extreme_logits(name):
    """Scores in the hundreds: one key takes all the weight, and nothing overflows."""
    config = config_of(SHAPES[-1], half_split=True)
    inputs = make(SHAPES[-1], spread=12.0)
    assert_close(run(BACKENDS[name], config, *inputs), run(reference, config, *(t.double() for t in inputs)), 1e-4)


@pytest.mark.parametrize("name", FAST)
def test_nan_comes_through(name):
    shape = SHAPES[0]
    q, k, v, _ = make(shape)
    q[1, 3, 4, 1, 2] = float("nan")
    out = BACKENDS[name](q, k, v, spatial_prior(*shape[1:], (2.0, 6.0), q), config_of(shape))
    assert out[1, 3, 4, 1].isnan().any(), "a diverged run has to be noticed"
    assert not out[0].isnan().any()


@pytest.mark.parametrize("name", FAST)
def test_strided_input(name):
    """Views of one product, as in a deployed network, and rows that are not adjacent in memory."""
    shape = (2, 6, 8, 2, 16)
    config, generator = config_of(shape), torch.Generator().manual_seed(0)
    prior = spatial_prior(*shape[1:], config.decay_range, torch.empty(0))
    fused = torch.randn(2, 6, 8, 3, 2, 16, generator=generator).unbind(3)
    columns_first = [t.transpose(1, 2).contiguous().transpose(1, 2) for t in fused]
    expected = masa.manhattan_attention(*fused, prior, config)
    for q, k, v in (fused, columns_first):
        torch.testing.assert_close(BACKENDS[name](q, k, v, prior, config), expected)


@pytest.mark.parametrize("threads", [2, 3])
def test_native_does_not_depend_on_threads(threads):
    shape, before = (1, 20, 33, 5, 16), torch.get_num_threads()
    config, inputs = config_of(shape), make(shape)
    try:
        torch.set_num_threads(1)
        expected = run(BACKENDS["native"], config, *inputs)
        torch.set_num_threads(threads)
        found = run(BACKENDS["native"], config, *inputs)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_blockwise_in_many_blocks(monkeypatch):
    monkeypatch.setattr(blockwise, "BLOCK_SCORES", 100)  # parts of a line
    for decomposed, decay, softmax in itertools.product((True, False), ("released", "paper", "none"), (True, False)):
        config = config_of(SHAPES[0], decomposed=decomposed, decay=decay, softmax=softmax)
        expected = run(reference, config, *make(SHAPES[0], torch.float64))
        assert_close(run(BACKENDS["blockwise"], config, *make(SHAPES[0], torch.float64)), expected, 1e-12)


def test_a_call_goes_to_the_chosen_backend(monkeypatch):
    chosen = []
    for name, backend in BACKENDS.items():
        record = lambda *args, name=name, original=backend: (chosen.append(name), original(*args))[1]  # noqa: E731
        monkeypatch.setitem(BACKENDS, name, record)
    q, k, v, _ = make((1, 4, 5, 2, 16))
    prior = spatial_prior(4, 5, 2, 16, (2.0, 6.0), q)
    config = config_of(q.shape)
    manhattan_attention(q, k, v, prior, config)
    manhattan_attention(q.bfloat16(), k.bfloat16(), v.bfloat16(), prior, config)
    manhattan_attention(q.double(), k.double(), v.double(), prior, config)
    monkeypatch.setattr("rmt.ops.dispatch.MAX_SCORES", 10)
    manhattan_attention(q.double(), k.double(), v.double(), prior, config)
    manhattan_attention(q, k, v, prior, config._replace(decay="paper"))
    manhattan_attention(q, k, v, prior, config._replace(softmax=False))
    with use_backend("sdpa"):
        manhattan_attention(q, k, v, prior, config)
    assert chosen == ["native", "native", "plain", "blockwise", "blockwise", "blockwise", "sdpa"]


def test_a_forced_backend_says_why_it_cannot():
    q, k, v, _ = make((1, 4, 5, 2, 16), torch.float64)
    prior = spatial_prior(4, 5, 2, 16, (2.0, 6.0), q)
    for name, words in (("native", "float32"), ("nonsense", "choose one of plain"), ("flex", "float32")):
        with use_backend(name), pytest.raises(RMTError, match=words) as error:
            manhattan_attention(q, k, v, prior, config_of(q.shape))
        assert "\n" not in str(error.value)


def test_a_backend_of_ones_own(monkeypatch):
    for registered in (BACKENDS, dispatch._UNUSABLE):
        monkeypatch.setitem(registered, "own", None)  # so that it is taken out again
        del registered["own"]
    unusable = lambda call: "for inference only" if call.needs_grad else None  # noqa: E731
    register_backend("own", lambda q, k, v, prior, config: 2 * v, unusable)
    q, k, v, _ = make((1, 4, 5, 2, 16))
    prior, config = spatial_prior(4, 5, 2, 16, (2.0, 6.0), q), config_of(q.shape)
    assert not torch.equal(manhattan_attention(q, k, v, prior, config), 2 * v)
    with use_backend("own"):
        assert torch.equal(manhattan_attention(q, k, v, prior, config), 2 * v)
        with pytest.raises(RMTError, match="RMT_BACKEND=own cannot be used here: for inference only"):
            manhattan_attention(q.requires_grad_(), k, v, prior, config)
    for name in ("own", "native"):
        with pytest.raises(RMTError, match=f"there is a backend '{name}'"):
            register_backend(name, reference, lambda call: None)


def test_without_a_compiler_there_is_a_reason(monkeypatch, tmp_path):
    from rmt.ops.cpu import build

    monkeypatch.setenv("RMT_CACHE", str(tmp_path))
    for compiler, words in (("/nonexistent/c++", "cannot be built"), ("false", "exit code 1")):
        monkeypatch.setenv("CXX", compiler)
        with pytest.raises(build.Unavailable, match=words):
            build.load.__wrapped__("planes.cpp", torch.float32, "HEAD_DIM=16")


@pytest.mark.parametrize("change", [dict(decay="paper"), dict(softmax=False)], ids=str)
def test_only_plain_and_blockwise_serve_the_other_forms(change):
    q, k, v, _ = make((1, 4, 5, 2, 16))
    config = config_of(q.shape)._replace(**change)
    prior = prior_of(q.shape, config, q)
    for name in BACKENDS:
        with use_backend(name):
            if name in ("plain", "blockwise"):
                expected = masa.manhattan_attention(q, k, v, prior, config)
                torch.testing.assert_close(manhattan_attention(q, k, v, prior, config), expected)
            else:
                with pytest.raises(RMTError, match="after the softmax|without softmax"):
                    manhattan_attention(q, k, v, prior, config)


@pytest.mark.parametrize(
    ("phases", "name"), [("flat", "plain"), ("axial", "sdpa"), *((p, "native") for p in ("flat", "axial", "none"))]
)
def test_compiles_whole(phases, name):
    """No graph break, forward and backward; `aot_eager` generates no code, which is faster."""
    if name == "native" and not KNOWS_EXPORT:
        pytest.skip("PyTorch 2.6 does not tell a compilation from an export, which has no operator of ours")
    torch.compiler.reset()  # it compiles one function a limited number of times
    attn = ManhattanSelfAttention(32, 2, phases=phases)
    x = torch.randn(1, 5, 6, 32, requires_grad=True)
    with use_backend(name):
        compiled = torch.compile(attn, backend="aot_eager", fullgraph=True)
        out = compiled(x)
        out.sum().backward()
        grad, x.grad = x.grad, None
        expected = attn(x)
        expected.sum().backward()
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(grad, x.grad)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("form", [dict(), dict(phases="axial"), dict(phases="none"), dict(gate=True)], ids=str)
def test_an_exported_program_holds_no_operator_of_ours(form, strict):
    attn = ManhattanSelfAttention(32, 2, **form).eval()
    program = torch.export.export(attn, (torch.randn(1, 3, 4, 32),), strict=strict)
    assert not [node for node in program.graph.nodes if "rmt." in str(node.target)]


@pytest.mark.slow
def test_flex_on_a_cpu():
    for decomposed, phases in ((True, "flat"), (False, "flat"), (True, "axial"), (False, "none")):
        config = config_of((1, 6, 9, 2, 16), decomposed=decomposed, phases=phases)
        q, k, v, _ = make((1, 6, 9, 2, 16))
        prior = prior_of(q.shape, config, q)
        expected = masa.manhattan_attention(q, k, v, prior, config)
        torch.testing.assert_close(BACKENDS["flex"](q, k, v, prior, config), expected)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", [(2, 5, 7, 16), (1, 1, 2, 48), (2, 11, 20, 32)], ids=str)
@pytest.mark.parametrize("plus", ["itself", "another", "nothing"])
def test_depthwise(kernel, shape, plus):
    """The native kernel against the reference implementation in float64, also on grids smaller than the kernel."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(shape[3], shape[3], kernel, padding=kernel // 2, groups=shape[3])
    wide = torch.randn(*shape[:3], 2 * shape[3])
    results = []
    for dtype in (torch.float32, torch.float64):
        conv = conv.to(dtype)
        conv.zero_grad()
        leaf = wide.detach().to(dtype).clone().requires_grad_()
        x, other = leaf.chunk(2, dim=-1)  # strided views
        function = masa.depthwise_conv if dtype == torch.float64 else depthwise_conv
        out = function(x, conv, residual=plus == "itself", plus=other if plus == "another" else None)
        out.backward((torch.arange(out.numel(), dtype=dtype).cos() + 0.5).view(shape))
        results.append([t.double() for t in (out.detach(), leaf.grad, conv.weight.grad, conv.bias.grad)])
    assert_close(*results, 1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", [(2, 5, 7, 16), (1, 1, 2, 48), (1, 19, 20, 144)], ids=str)
@torch.no_grad()
def test_depthwise_after_gelu(kernel, shape):
    """Shift and GELU inside the kernel against float64: the padding is zero after both, not before."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(shape[3], shape[3], kernel, padding=kernel // 2, groups=shape[3])
    x, shift = 3 * torch.randn(shape), torch.randn(shape[3])
    assert fuses_gelu(x, conv)
    found = depthwise_conv(x, conv, gelu=True, shift=shift)
    expected = masa.depthwise_conv(x.double(), conv.double(), gelu=True, shift=shift.double())
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_depthwise_after_gelu_with_its_residual(dtype):
    """The network that is not deployed: GELU's output, which is not in memory, is added as well."""
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(32, 32, 3, padding=1, groups=32).to(dtype), (3 * torch.randn(2, 5, 7, 32)).to(dtype)
    before = conv.weight.clone()
    found = depthwise_conv(x, conv, gelu=True, residual=True)
    assert torch.equal(conv.weight, before)
    expected = masa.depthwise_conv(x.double(), conv.double(), gelu=True, residual=True)
    assert (found - expected).abs().max() < (1e-5 if dtype == torch.float32 else 1e-2) * expected.abs().max()


@torch.no_grad()
def test_gelu_everywhere():
    conv = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16)
    conv.weight.zero_()[:, :, 1, 1] = 1
    conv.bias.zero_()
    x = torch.cat([torch.linspace(-8, 8, 16_000), torch.tensor([1e-30, -1e-30, 0.0, 1e30, -1e30, float("inf")])])
    x = torch.nn.functional.pad(x, (0, -len(x) % 16), value=float("nan")).view(-1, 1, 1, 16)  # apart: 0·∞ is NaN
    found = depthwise_conv(x, conv, gelu=True).flatten()
    x = x.flatten().double()
    expected = torch.where(x.isinf(), x, torch.nn.functional.gelu(x))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=2e-7, equal_nan=True)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("shape", [(2, 5, 7, 32), (1, 1, 2, 48), (3, 11, 20, 144)], ids=str)
@pytest.mark.parametrize("residual", [True, False])
def test_gelu_and_depthwise_with_gradients(residual, shape, kernel):
    """Against float64; GELU's output is computed again and only its input kept."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(shape[3], shape[3], kernel, padding=kernel // 2, groups=shape[3])
    draw, dout = 3 * torch.randn(shape), torch.randn(shape)
    results, kept = [], []
    for dtype in (torch.float64, torch.float32):
        conv, x = conv.to(dtype), draw.to(dtype).requires_grad_()
        assert not fuses_gelu(x, conv)
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
            function = masa.depthwise_conv if dtype == torch.float64 else depthwise_conv
            out = function(x, conv, gelu=True, residual=residual)
        gradients = torch.autograd.grad(out, [x, conv.weight, conv.bias], dout.to(dtype))
        results.append([t.detach().double() for t in (out, *gradients)])
    assert_close(results[1], results[0], 1e-5)
    assert kept == [t.data_ptr() for t in (x, conv.weight, conv.bias)]


def test_the_derivative_of_gelu_everywhere():
    """Also where GELU itself is taken as 0 or x; NaN stays NaN."""
    conv = torch.nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False).requires_grad_(False)
    conv.weight.zero_()[:, :, 1, 1] = 1
    x = torch.cat([torch.linspace(-8, 8, 16_000), torch.tensor([1e-30, -1e-30, 0.0, 1e30, -1e30])])
    x = torch.nn.functional.pad(x, (0, -len(x) % 16), value=float("nan")).view(1, 1, -1, 16)
    slopes = []
    for t, function in ((x, depthwise_conv), (x.double(), masa.depthwise_conv)):
        t = t.clone().requires_grad_()
        function(t, conv.to(t.dtype), gelu=True).sum().backward()
        slopes.append(t.grad.double())
    torch.testing.assert_close(*slopes, atol=5e-7, rtol=0, equal_nan=True)


@pytest.mark.parametrize("threads", [2, 3])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("gelu", [False, True])
def test_depthwise_does_not_depend_on_threads(threads, images, gelu):
    torch.manual_seed(0)
    conv, x = torch.nn.Conv2d(80, 80, 5, padding=2, groups=80), torch.randn(images, 37, 20, 80, requires_grad=True)
    dout = torch.randn(x.shape)

    def results():
        out = depthwise_conv(x, conv, gelu=gelu)
        return out.detach(), *torch.autograd.grad(out, (x, conv.weight, conv.bias), dout)

    one, before = results(), torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        assert all(map(torch.equal, results(), one))
    finally:
        torch.set_num_threads(before)
