"""`rmt.training.muon` beside timm's Muon."""

import copy

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2

import rmt  # noqa: F401  registers its networks
from rmt.training import muon

OPTIONS = dict(opt="nmuon", lr=0.01, weight_decay=0.02, momentum=0.95)


def step(*models_and_optimizers):
    """One step of each with the same random gradients; one weight has none."""
    models, optimizers = zip(*models_and_optimizers, strict=True)
    for weights in zip(*(model.parameters() for model in models), strict=True):
        gradient = torch.randn_like(weights[0])
        for weight in weights:
            weight.grad = gradient.clone()
    for model, optimizer in zip(models, optimizers, strict=True):
        next(model.parameters()).grad = None
        optimizer.step()
        assert sum(weight.grad is None for weight in model.parameters()) == 1


def largest_difference(model, other):
    return max(float((a - b).detach().abs().max()) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@pytest.fixture
def pair():
    """rmt_nano with our optimizer, and with timm's."""
    torch.manual_seed(0)
    ours = timm.create_model("rmt_nano", num_classes=10)
    theirs = copy.deepcopy(ours)
    optimizer = muon.Muon(create_optimizer_v2(ours, **OPTIONS).param_groups)
    return (ours, optimizer), (theirs, create_optimizer_v2(theirs, **OPTIONS))


@pytest.mark.parametrize(("format", "bound"), [(torch.bfloat16, 5e-4), (torch.float32, 5e-4), (None, 1e-6)])
def test_the_steps_are_those_of_timm(pair, monkeypatch, format, bound):
    """Within the rounding of bfloat16, in which timm multiplies; without the products (None) within that of float32."""
    monkeypatch.setattr(muon, "product_dtype", lambda matrices: format)
    if format is None:
        for module in ("timm.optim.muon", "rmt.training.muon"):
            monkeypatch.setattr(f"{module}.zeropower_via_newtonschulz", lambda matrix, *rest, **options: matrix)
    (ours, optimizer), (theirs, _) = pair
    before = copy.deepcopy(ours)
    for _ in range(2):
        step(*pair)
    assert largest_difference(ours, theirs) <= bound < largest_difference(ours, before)

    again = create_optimizer_v2(theirs, **OPTIONS)  # a run that timm's optimizer began can go on with ours, and back
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    optimizer.load_state_dict(copy.deepcopy(pair[1][1].state_dict()))
    step((ours, optimizer), (theirs, again))
    assert largest_difference(ours, theirs) <= 2 * bound


@pytest.mark.parametrize("name", ["rmt_micro", "convnext_atto", "mobilenetv3_small_050"])
def test_the_same_weights_are_matrices_as_in_timm(name, monkeypatch):
    model = timm.create_model(name, num_classes=10)
    optimizer = create_optimizer_v2(model, **OPTIONS | dict(lr=0.0))
    weights = dict(model.named_parameters())
    for weight in weights.values():
        weight.grad = torch.zeros_like(weight)
    monkeypatch.setattr("timm.optim.muon.zeropower_via_newtonschulz", lambda matrix, *rest, **options: matrix)
    optimizer.step()
    assert {n for n, w in weights.items() if muon.is_matrix(w)} == {
        n for n, w in weights.items() if optimizer.state[w]["use_muon"]
    }


def test_bfloat16_is_for_processors_that_multiply_it(monkeypatch):
    matrix = torch.zeros(2, 2)
    for known, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(muon, "multiplies_bfloat16", lambda known=known: known)
        assert muon.product_dtype(matrix) == expected
    assert muon.product_dtype(matrix.to("meta")) == torch.bfloat16


def test_the_loss_of_a_closure_is_returned_and_differentiated(pair):
    model, optimizer = pair[0]

    def closure():
        loss = sum(weight.square().sum() for weight in model.parameters())
        loss.backward()
        return loss

    before = copy.deepcopy(model)
    assert optimizer.step(closure).item() > 0
    assert largest_difference(model, before) > 0
