"""Second derivatives, torch.func and forward-mode differentiation of a network, as by the plain formula."""

import warnings

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

import rmt
from rmt.errors import RMTError
from rmt.ops.dispatch import KERNELS, use_backend

PARTS = {
    "native": dict(),
    "all pairs": dict(decomposed=[False] * 4),
    "gate, paper's decay": dict(decay="paper"),
    "no decay": dict(decay="none"),
    "no phases": dict(phases="none"),
}


@pytest.fixture(params=PARTS)
def network(request):
    torch.manual_seed(0)
    model = rmt.create_model("rmt_test", num_classes=3, **PARTS[request.param]).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.2)
    return model


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def second(model, x):
    """The gradients, with respect to the image and a weight, of the norm of the image's gradient."""
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    block = model.stages[1].blocks[0]
    weights = [block.attn.q.weight, block.mlp.dwconv.weight]
    return [first.detach(), *torch.autograd.grad(first.square().sum(), [x, *weights])]


def assert_close(found, expected):
    for ours, plain in zip(found, expected, strict=True):
        assert plain.abs().max() > 0
        assert (ours - plain).abs().max() <= 2e-4 * plain.abs().max()


def test_second_derivatives_are_those_of_the_plain_formula(network):
    found = second(network, X)
    with use_backend("plain"):
        assert_close(found, second(network, X))


def test_second_derivatives_of_blockwise(network):
    with use_backend("blockwise"):
        found = second(network, X)
    with use_backend("plain"):
        assert_close(found, second(network, X))


def test_second_derivatives_are_those_of_finite_differences():
    torch.manual_seed(0)
    model = rmt.create_model("rmt_test", num_classes=2).eval().double()
    x = X[:1].double().requires_grad_()
    direction = torch.randn(x.shape, dtype=torch.float64)
    (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    (product,) = torch.autograd.grad((first * direction).sum(), x)
    step = 1e-5
    ends = [torch.autograd.grad(model(x + s * direction).square().sum(), x)[0] for s in (step, -step)]
    difference = (ends[0] - ends[1]) / (2 * step)
    assert (product - difference).abs().max() <= 1e-4 * difference.abs().max()


def functional(model):
    weights, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(weights, image):
        return torch.func.functional_call(model, (weights, buffers), (image[None],))[0].square().sum()

    return weights, loss


def test_a_gradient_for_each_image_by_vmap_and_grad(network):
    weights, loss = functional(network)
    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(weights, X)
    for number, image in enumerate(X):
        expected = torch.autograd.grad(loss(weights, image), list(weights.values()))
        assert_close_where_any([found[name][number] for name in weights], expected)


def assert_close_where_any(found, expected):
    most = max(float(plain.abs().max()) for plain in expected)
    for ours, plain in zip(found, expected, strict=True):
        assert (ours - plain).abs().max() <= 2e-4 * max(float(plain.abs().max()), 1e-3 * most)


def test_forward_mode_is_the_transpose_of_backward_mode(network):
    direction, weight = torch.randn_like(X), torch.randn(2, 3)
    out, tangent = torch.func.jvp(network, (X,), (direction,))
    torch.testing.assert_close(out, network(X).detach(), rtol=1e-4, atol=1e-5)
    (pulled,) = torch.func.vjp(network, X)[1](weight)
    torch.testing.assert_close((tangent * weight).sum(), (pulled * direction).sum(), rtol=1e-3, atol=1e-4)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(network(forward_ad.make_dual(X, direction))).tangent
    torch.testing.assert_close(dual, tangent)


def test_hessians(network):
    start = torch.zeros(1)
    hessian = torch.func.hessian(lambda t: network(X * (1 + t)).square().sum())(start)
    slopes = [torch.func.grad(lambda t: network(X * (1 + t)).square().sum())(start + s) for s in (1e-2, -1e-2)]
    torch.testing.assert_close(hessian.flatten(), (slopes[0] - slopes[1]) / 2e-2, rtol=2e-2, atol=1e-2)


def test_many_gradients_at_once(network):
    """`is_grads_batched` calls the backward passes of the kernels with all of them, by vmap."""
    found = torch.autograd.functional.jacobian(network, X, vectorize=True)
    with use_backend("plain"):
        assert_close([found], [torch.autograd.functional.jacobian(network, X)])


@pytest.mark.parametrize("decomposed", [True, False])
def test_flops_are_those_of_the_plain_formula(decomposed):
    model = rmt.create_model("rmt_test", num_classes=3, decomposed=[decomposed] * 4)
    with FlopCounterMode(display=False) as forward:
        loss = model(X.clone().requires_grad_()).sum()
    with use_backend("plain"), FlopCounterMode(display=False) as plain:
        model(X)
    assert forward.get_total_flops() == plain.get_total_flops()
    with FlopCounterMode(display=False) as backward:  # PyTorch counts too many for convolutions in groups
        loss.backward()
    once, twice = (mode.get_flop_counts()["Global"] for mode in (forward, backward))
    assert twice[torch.ops.rmt.native_attention_backward] == 2 * once[torch.ops.rmt.native_attention]
    assert twice[torch.ops.rmt.depthwise_backward] == 2 * once[torch.ops.rmt.depthwise]


def test_nothing_else_changes_backend():
    """An ordinary gradient is the kernel's; after a transform kernels are used again."""
    model = rmt.create_model("rmt_test", num_classes=3).eval()
    torch.func.grad(lambda x: model(x).sum())(X)
    with warnings.catch_warnings(), use_backend(KERNELS["cpu"]):
        warnings.simplefilter("error")
        model(X.clone().requires_grad_()).sum().backward()


def test_a_forced_kernel_is_refused_by_a_line():
    model = rmt.create_model("rmt_test", num_classes=3).eval()
    with use_backend("native"), pytest.raises(RMTError, match=r"torch\.func .*plain works"):
        torch.func.grad(lambda x: model(x).sum())(X)
