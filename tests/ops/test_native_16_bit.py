"""The C++ kernels in bfloat16 and float16, against the reference implementations in float32 on the same inputs."""

import platform

import pytest
import torch
from torch import nn

from rmt.ops import MaSAConfig, depthwise_conv, fuses_gelu, manhattan_attention, masa, spatial_prior, use_backend
from rmt.ops.cpu import build

# The stated bounds, relative to the largest value: a few units in the last place, 2⁻⁸ and 2⁻¹¹.
BOUND = {torch.bfloat16: 2e-2, torch.float16: 3e-3}
# What other processors run: no products of bf16, and registers of half the width.
INSTRUCTIONS = {"this processor's": (), "without bf16 products": ("-DWIDEN",), "AVX2": ("-march=x86-64-v3",)}
# (B, h, w, n, d): not square, an odd number of tokens, widths that fill no whole vector, more tokens than one chunk
SHAPES = [(2, 7, 9, 3, 20), (1, 1, 5, 2, 20), (1, 3, 300, 1, 20)]
ON_THIS_PROCESSOR = [*SHAPES, (2, 14, 14, 2, 16), (1, 6, 33, 2, 16)]

both = pytest.mark.parametrize("dtype", BOUND, ids=str)


@pytest.fixture(params=INSTRUCTIONS, ids=str)
def instructions(request, monkeypatch):
    """Kernels compiled for these instructions, and not loaded from elsewhere."""
    if request.param == "AVX2" and platform.machine() != "x86_64":
        pytest.skip("AVX2 is an extension of x86-64")
    if request.param == "without bf16 products" and request.getfixturevalue("dtype") != torch.bfloat16:
        pytest.skip("the kernels for float16 have none")
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, *INSTRUCTIONS[request.param]))
    build.load.cache_clear()
    yield request.param
    build.load.cache_clear()


def draw(shape, dtype, seed=0, **options):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), **options).to(dtype)


def assert_close(found, expected, bound, names):
    for name, a, b in zip(names, found, expected, strict=True):
        error = (a.float() - b).abs().max() / b.abs().max()
        assert error < bound, f"{name}: {error:.1e}"  # also fails for NaN


def check_attention(shape, dtype, **options):
    """Output and gradients of `native`, in `dtype`, and of the reference implementation in float32."""
    config = MaSAConfig(
        **dict(decomposed=True, decay="released", decay_range=(2.0, 6.0), scale=shape[-1] ** -0.5) | options
    )
    prior = spatial_prior(*shape[1:], config.decay_range, torch.empty(0), config.phases)
    q, k, v, upstream = (draw(shape, dtype, seed) for seed in range(4))
    results = []
    for function, convert in ((manhattan_attention, torch.clone), (masa.manhattan_attention, torch.Tensor.float)):
        leaves = [convert(t).requires_grad_() for t in (q, k, v)]
        with use_backend("native" if function is manhattan_attention else None):
            out = function(*leaves, prior, config)
        results.append((out.detach(), *torch.autograd.grad(out, leaves, convert(upstream))))
    assert {t.dtype for t in results[0]} == {dtype}
    assert_close(*results, BOUND[dtype], ("out", "dq", "dk", "dv"))


@both
@pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "full"])
@pytest.mark.parametrize("half_split", [False, True], ids=["adjacent", "half-split"])
@pytest.mark.parametrize("shape", ON_THIS_PROCESSOR, ids=str)
def test_attention(shape, dtype, decomposed, half_split):
    check_attention(shape, dtype, decomposed=decomposed, half_split=half_split)


@both
@pytest.mark.parametrize("options", [dict(decay="none"), dict(phases="axial"), dict(phases="none")], ids=str)
def test_other_forms_of_attention(dtype, options):
    check_attention(SHAPES[0], dtype, **options)


@both
def test_attention_by_other_instructions(instructions, dtype):
    for shape in SHAPES:
        check_attention(shape, dtype)
    check_attention(SHAPES[0], dtype, decomposed=False, half_split=True)


def test_instructions_are_chosen(monkeypatch):
    """The fixture above compiles another library, rather than load the same one under three names."""
    found = []
    for flags in INSTRUCTIONS.values():
        if platform.machine() == "x86_64" or not flags:
            monkeypatch.setattr(build, "FLAGS", (*build.FLAGS[:6], *flags))
            found.append(build.load.__wrapped__("planes.cpp", torch.bfloat16, "HEAD_DIM=20")._name)
    assert len(set(found)) == len(found)


@both
@torch.no_grad()
def test_extreme_logits_and_nan(dtype):
    """One key takes all the weight and nothing overflows; a NaN is not hidden by rounding, and stays in its image."""
    shape = (2, 5, 40, 2, 16)
    config = MaSAConfig(True, "released", (2.0, 6.0), scale=0.25)
    prior = spatial_prior(*shape[1:], config.decay_range, torch.empty(0))
    q, k, v = (draw(shape, dtype, seed) for seed in range(3))
    found = manhattan_attention(12 * q, 12 * k, v, prior, config)
    assert found.isfinite().all()
    assert found.abs().max() <= v.abs().max() * (1 + BOUND[dtype])
    q[1, 3, 4, 1, 2] = float("nan")
    found = manhattan_attention(q, k, v, prior, config)
    assert found[1, 3, 4, 1].isnan().any()
    assert not found[0].isnan().any()


@both
@torch.no_grad()
def test_views_are_read_through_their_strides(dtype):
    shape = (2, 6, 8, 2, 16)
    config = MaSAConfig(True, "released", (2.0, 6.0), scale=0.25)
    prior = spatial_prior(*shape[1:], config.decay_range, torch.empty(0))
    views = draw((2, 6, 8, 3, 2, 16), dtype).unbind(3)
    expected = manhattan_attention(*(t.contiguous() for t in views), prior, config)
    assert torch.equal(manhattan_attention(*views, prior, config), expected)


@both
@torch.no_grad()
def test_windows(dtype):
    shape = (1, 3, 90, 2, 16)
    config = MaSAConfig(True, "released", (1.0, 2.0), scale=0.25, tolerance=1e-3)
    prior = spatial_prior(*shape[1:], config.decay_range, torch.empty(0))
    q, k, v = (draw(shape, dtype, seed) / 4 for seed in range(3))
    windowed = manhattan_attention(q, k, v, prior, config)
    exact = masa.manhattan_attention(q.float(), k.float(), v.float(), prior, config)
    assert_close([windowed], [exact], BOUND[dtype] + 4e-3, ["out"])


def check_depthwise(dtype, kernel, shape, plus, gelu=False):
    torch.manual_seed(0)
    conv = nn.Conv2d(shape[3], shape[3], kernel, padding=kernel // 2, groups=shape[3]).to(dtype)
    wide, upstream = draw((*shape[:3], 2 * shape[3]), dtype), draw(shape, dtype, 1)
    results = []
    for function, convert in ((depthwise_conv, torch.clone), (masa.depthwise_conv, torch.Tensor.float)):
        conv = conv.float() if function is masa.depthwise_conv else conv
        leaf = convert(wide).requires_grad_()
        x, other = leaf.chunk(2, dim=-1)  # strided views
        out = function(x, conv, residual=plus == "itself", plus=other if plus == "another" else None, gelu=gelu)
        gradients = torch.autograd.grad(out, (leaf, conv.weight, conv.bias), convert(upstream))
        results.append((out.detach(), *gradients))
    assert {t.dtype for t in results[0]} == {dtype}
    assert_close(*results, BOUND[dtype], ("out", "dx", "dweight", "dbias"))


@both
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("gelu", [False, True], ids=["", "gelu"])
@pytest.mark.parametrize("plus", ["itself", "another", "nothing"])
def test_depthwise(dtype, kernel, plus, gelu):
    for shape in ((2, 5, 7, 16), (1, 1, 2, 48), (2, 11, 20, 32)):
        check_depthwise(dtype, kernel, shape, plus, gelu)


@both
@torch.no_grad()
def test_depthwise_after_gelu_by_all_instructions(instructions, dtype):
    """Shift and GELU inside the kernel, and the plain convolution."""
    with torch.enable_grad():
        check_depthwise(dtype, 3, (1, 3, 9, 32), "itself")
        check_depthwise(dtype, 3, (2, 3, 9, 32), "itself", gelu=True)
    for shape in ((2, 5, 7, 16), (1, 19, 20, 144)):
        conv = nn.Conv2d(shape[3], shape[3], 3, padding=1, groups=shape[3]).to(dtype)
        x, shift = 3 * draw(shape, dtype), draw(shape[3], dtype, 1)
        assert fuses_gelu(x, conv)
        found = depthwise_conv(x, conv, gelu=True, shift=shift)
        expected = masa.depthwise_conv(x.float(), conv.float(), gelu=True, shift=shift.float())
        assert found.dtype == dtype
        assert_close([found], [expected], BOUND[dtype], ["out"])


@pytest.mark.parametrize("residual", [True, False])
def test_depthwise_in_autocast(residual):
    """Autocast's dtype, or that of a residual of higher precision; gradients in the dtypes of the parameters."""
    conv, x = nn.Conv2d(32, 32, 3, padding=1, groups=32), draw((1, 5, 7, 32), torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = depthwise_conv(x, conv, residual=residual)
    assert found.dtype == (torch.float32 if residual else torch.bfloat16)
    expected = masa.depthwise_conv(x, conv, residual=residual)
    leaves = (x, conv.weight, conv.bias)
    gradients = [torch.autograd.grad(out.float().square().sum(), leaves) for out in (found, expected)]
    assert_close((found.detach(), *gradients[0]), (expected.detach(), *gradients[1]), 2e-2, ("out", "dx", "dw", "db"))
