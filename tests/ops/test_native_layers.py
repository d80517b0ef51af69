"""LayerNorm, the residual addition before it, and linear layers on a CPU; networks in 16 bits."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import TINY
from torch.utils.checkpoint import checkpoint

import rmt
from rmt.model import RMT
from rmt.ops import LayerNorm, Linear, add_layer_norm, depthwise_conv, layer_norm, linear, masa, use_backend
from rmt.ops.cpu import backend as native
from rmt.ops.cpu import linear as onednn
from rmt.ops.dispatch import _layer_norm_backend, _linear_backend

BOUND = {torch.float32: 2e-6, torch.bfloat16: 2e-2, torch.float16: 3e-3}  # relative to the largest value
SHAPES = [(2, 5, 7, 64), (3, 16), (1, 1, 19, 112)]
every_dtype = pytest.mark.parametrize("dtype", BOUND, ids=str)


def relative_error(found, expected):
    return ((found.double() - expected).abs().max() / expected.abs().max()).item()


@every_dtype
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_layer_norm(shape, affine, dtype):
    torch.manual_seed(0)
    x = (3 * torch.randn(shape) + 5).to(dtype)
    weight, bias = (torch.randn(shape[-1]).to(dtype) if affine else None for _ in range(2))
    assert _layer_norm_backend(x, weight, bias) == "native"
    found = layer_norm(x, weight, bias)
    exact = F.layer_norm(x.double(), shape[-1:], *(t if t is None else t.double() for t in (weight, bias)), eps=1e-6)
    assert found.dtype == dtype
    assert relative_error(found, exact) < BOUND[dtype]


@every_dtype
@torch.no_grad()
def test_layer_norm_of_a_sum(dtype):
    """Both results, for views too: the norm is that of the sum before it is rounded, so at least as exact."""
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 7, 2, 48).to(dtype).unbind(3)
    total, found = add_layer_norm(x, y)
    assert torch.equal(total, x + y)
    assert relative_error(found, F.layer_norm(x.double() + y.double(), (48,), eps=1e-6)) < BOUND[dtype]


@torch.no_grad()
def test_layer_norm_of_a_small_spread_on_a_large_mean():
    x = 1000 + torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    assert relative_error(layer_norm(x), F.layer_norm(x.double(), (64,), eps=1e-6)) < 1e-4


@torch.no_grad()
def test_nan_stays_in_its_token():
    x = torch.randn(9, 32)
    x[4, 3] = float("nan")
    assert layer_norm(x).isnan().all(1).nonzero().flatten().tolist() == [4]


@pytest.mark.parametrize("threads", [2, 3])
@torch.no_grad()
def test_layer_norm_does_not_depend_on_threads(threads):
    x, before = torch.randn(37, 48), torch.get_num_threads()
    one = layer_norm(x)
    try:
        torch.set_num_threads(threads)
        assert torch.equal(layer_norm(x), one)
    finally:
        torch.set_num_threads(before)


def gradients_of_layer_norm(function, x, weight, bias, dout):
    leaves = [t.clone().requires_grad_() for t in (x, weight, bias)]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, dout.to(out.dtype))


@pytest.mark.parametrize("dtypes", [(a, b) for a in BOUND for b in BOUND if b != torch.float32], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_of_layer_norm_in_16_bits(shape, dtypes):
    """Against float64, also where autocast's dtype is not that of the input; only the input is kept."""
    torch.manual_seed(0)
    x, dout = (3 * torch.randn(shape) + 5).to(dtypes[0]), torch.randn(shape).to(dtypes[1])
    weight, bias = torch.randn(2, shape[-1])
    kept = []
    with torch.autocast("cpu", dtypes[1]), torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        assert _layer_norm_backend(x, weight.requires_grad_(), bias) == "native"
        layer_norm(x, weight, bias)
    assert [t.dtype for t in kept] == [dtypes[0], torch.float32]
    with torch.autocast("cpu", dtypes[1]):
        found = gradients_of_layer_norm(layer_norm, x, weight.detach(), bias, dout)
    doubles = (t.detach().double() for t in (x, weight, bias, dout))
    expected = gradients_of_layer_norm(lambda x, *affine: F.layer_norm(x, x.shape[-1:], *affine, eps=1e-6), *doubles)
    assert [t.dtype for t in found] == [dtypes[1], dtypes[0], torch.float32, torch.float32]
    for a, b in zip(found, expected, strict=True):
        assert relative_error(a, b) < max(BOUND[d] for d in dtypes)


@pytest.mark.parametrize("threads", [2, 3])
def test_gradients_of_layer_norm_do_not_depend_on_threads(threads):
    torch.manual_seed(0)
    inputs = torch.randn(1037, 48).bfloat16(), *torch.randn(2, 48), torch.randn(1037, 48).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        one, before = gradients_of_layer_norm(layer_norm, *inputs), torch.get_num_threads()
        try:
            torch.set_num_threads(threads)
            assert all(map(torch.equal, gradients_of_layer_norm(layer_norm, *inputs), one))
        finally:
            torch.set_num_threads(before)


def test_second_derivatives_of_layer_norm_in_16_bits():
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 32, dtype=torch.bfloat16), *torch.randn(2, 32)
    second = []
    for function, convert in ((layer_norm, torch.clone), (F.layer_norm, torch.Tensor.double)):
        leaves = [convert(t).requires_grad_() for t in (x, weight, bias)]
        normed = F.layer_norm if function is F.layer_norm else None
        with torch.autocast("cpu", torch.bfloat16, enabled=normed is None):
            out = function(*leaves) if normed is None else normed(leaves[0], (32,), *leaves[1:], eps=1e-6)
        (first,) = torch.autograd.grad(out.double().pow(2).sum(), leaves[0], create_graph=True)
        second.append(torch.autograd.grad(first.double().pow(2).sum(), leaves[:2]))
    for a, b in zip(*second, strict=True):
        assert relative_error(a, b) < 5e-2


def test_layer_norm_elsewhere():
    """With gradients in float32 or without scale and shift, and for other widths, PyTorch's."""
    x = torch.randn(3, 32, requires_grad=True)
    assert _layer_norm_backend(x, None, None) == "plain"
    norm = LayerNorm(32)
    norm(x).square().sum().backward()
    assert x.grad is not None and norm.weight.grad is not None
    with torch.no_grad():
        assert _layer_norm_backend(torch.randn(3, 20), None, None) == "plain"
        with torch.autocast("cpu", torch.bfloat16):
            assert add_layer_norm(x, x.bfloat16())[0].dtype == torch.float32
            assert [t.dtype for t in add_layer_norm(x, x)] == [torch.float32, torch.bfloat16]
            assert norm(x.bfloat16()).dtype == torch.bfloat16


@every_dtype
@torch.no_grad()
def test_linear(dtype, monkeypatch):
    monkeypatch.setattr(onednn, "_vendor", lambda: "AuthenticAMD")
    onednn.slower_than_pytorch.cache_clear()
    torch.manual_seed(0)
    layer = Linear(48, 20).to(dtype)
    x = torch.randn(2, 5, 7, 96).to(dtype)[..., ::2]  # a view
    if onednn.slower_than_pytorch(dtype) is not None:
        pytest.skip(f"oneDNN serves no {dtype} here")
    assert _linear_backend(x, layer.weight, layer.bias) == "native"
    exact = F.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert layer(x).shape == exact.shape
    assert relative_error(layer(x), exact) < BOUND[dtype]
    assert relative_error(linear(x, layer.weight), exact - layer.bias.double()) < BOUND[dtype]
    onednn.slower_than_pytorch.cache_clear()


@pytest.fixture
def onednn_is_faster(monkeypatch):
    """As on AMD's processors."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(native, "slower_than_pytorch", lambda dtype: None)


def derivatives(layers, leaves):
    """The result, the gradients of its weighted sum, and those of the squares of these."""
    out = layers(*leaves)
    first = torch.autograd.grad(
        (out * torch.arange(out.numel()).view(out.shape).cos()).sum(), leaves, create_graph=True
    )
    return out, *first, *torch.autograd.grad(sum(g.square().sum() for g in first), leaves)


@pytest.mark.parametrize("biased", [True, False])
def test_gradients_of_linear(biased, onednn_is_faster, monkeypatch):
    """By oneDNN, forward and of the input, against float64, for a view; second derivatives too."""
    torch.manual_seed(0)
    products = []
    monkeypatch.setattr(native, "linear", lambda *args: products.append(args) or onednn.linear(*args))
    layer, draw, results = Linear(48, 20, bias=biased), torch.randn(2, 5, 7, 96), []
    for dtype in (torch.float64, torch.float32):
        leaves = [draw.to(dtype).requires_grad_(), *layer.to(dtype).parameters()]
        found = derivatives(lambda x, weight, bias=None: linear(x[..., ::2], weight, bias).pow(2), leaves)
        results.append([t.detach() for t in found])
    assert len(products) == 2, "the result, and the gradient of x in the pass that is not recorded"
    gradient = torch.autograd.grad(linear(leaves[0], torch.cat([leaves[1]] * 2, 1)).sum(), leaves[0])[0]
    assert relative_error(gradient[0, 0, 0], leaves[1].detach().double().sum(0).repeat(2)) < 1e-5
    for found, expected in zip(*results[::-1], strict=True):
        assert relative_error(found, expected) < 1e-5


def feed_forward(dtype=torch.float32):
    torch.manual_seed(0)
    x, conv = torch.randn(2, 5, 7, 32), torch.nn.Conv2d(32, 32, 3, padding=1, groups=32)
    return x.to(dtype).requires_grad_(), conv.to(dtype), Linear(32, 16).to(dtype)


def convolved(x, conv, layer, function=depthwise_conv):
    return layer(function(x, conv, gelu=True, residual=True))


def test_a_linear_layer_has_the_convolution_computed_again(onednn_is_faster):
    """It keeps its weight alone, with the derivatives of float64, once or twice, and under activation checkpointing."""
    results = []
    for dtype, function in ((torch.float64, masa.depthwise_conv), (torch.float32, depthwise_conv)):
        x, conv, layer = parts = feed_forward(dtype)
        leaves = [x, *conv.parameters(), *layer.parameters()]
        results.append(derivatives(lambda *_, parts=(*parts, function): convolved(*parts).square(), leaves))
    for expected, found in zip(*results, strict=True):
        assert relative_error(found.detach(), expected.detach()) < 1e-5

    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        out = convolved(x, conv, layer)
    assert kept == [t.data_ptr() for t in (x, conv.weight, conv.bias, layer.weight)]
    once = torch.autograd.grad(out.square().sum(), leaves, retain_graph=True)
    again = torch.autograd.grad(out.square().sum(), leaves)
    recomputed = checkpoint(convolved, x, conv, layer, use_reentrant=False)
    checkpointed = torch.autograd.grad(recomputed.square().sum(), leaves)
    for a, b, c in zip(once, again, checkpointed, strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)
    layer.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(convolved(x, conv, layer).square().sum(), x)[0], once[0])


def test_what_was_changed_is_not_computed_again(onednn_is_faster):
    """A result that was changed is kept as it is; an input that was changed is PyTorch's error."""
    x, conv, layer = feed_forward()
    changed = depthwise_conv(x, conv, gelu=True).mul_(2)
    layer(changed).sum().backward()
    assert relative_error(layer.weight.grad[0], changed.detach().double().sum((0, 1, 2))) < 1e-5
    hidden = x * 1
    out = convolved(hidden, conv, layer)
    hidden.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize(("vendor", "words"), [("GenuineIntel", "MKL is not slower"), (None, "MKL is not slower")])
def test_float32_is_left_to_mkl_elsewhere(vendor, words, monkeypatch):
    monkeypatch.setattr(onednn, "_vendor", lambda: vendor)
    assert words in onednn.slower_than_pytorch.__wrapped__(torch.float32)


@pytest.mark.parametrize("deployed", [False, True], ids=["as trained", "deployed"])
@torch.no_grad()
def test_a_network_in_bfloat16(deployed):
    """By the kernels as close to float32 as by PyTorch's operators."""
    torch.manual_seed(0)
    model, x = RMT(**TINY).eval(), torch.randn(2, 3, 96, 96)
    expected = model(x).double()
    half = (rmt.deploy(model) if deployed else model).to(torch.bfloat16)
    errors = {}
    for backend in (None, "plain"):
        with use_backend(backend):
            errors[backend] = relative_error(half(x.bfloat16()), expected)
    assert errors[None] < max(1.5 * errors["plain"], 2e-2), errors


def test_a_training_step_in_autocast():
    """Gradients by the kernels in bfloat16 point where those of float32 do."""
    torch.manual_seed(0)
    model, x = RMT(**TINY), torch.randn(4, 3, 64, 64)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = F.cross_entropy(model(x).float(), torch.arange(4))
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    assert F.cosine_similarity(*gradients, dim=0) > 0.99
