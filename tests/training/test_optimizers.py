import math
from dataclasses import replace

import pytest
import torch

from rmt.errors import RMTError
from rmt.model import create_model
from rmt.recipes import quickstart
from rmt.training.batch import effective_batch, peak_lr
from rmt.training.optimizers import build_optimizer
from rmt.training.schedules import CosineSchedule


def test_norms_biases_and_layer_scales_take_no_decay():
    model = create_model("rmt_pico", layer_scales=(None, None, 1e-6, 1e-6))
    optimizer = build_optimizer(model, replace(quickstart(), weight_decay=0.05), lr=1e-3)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    decayed = {name for name, p in model.named_parameters() if decay[id(p)]}
    free = {name for name, p in model.named_parameters() if not decay[id(p)]}
    assert all(p.ndim > 1 for name, p in model.named_parameters() if name in decayed)
    assert {"stages.0.blocks.0.attn.q.weight", "stages.0.blocks.0.attn.lce.weight", "stem.0.weight"} <= decayed
    assert all(
        name.endswith((".bias", ".gamma", "norm.weight", "norm1.weight", "norm2.weight"))
        or "stem" in name
        or "downsample" in name
        for name in free
    )
    assert any(name.endswith("ls1.gamma") for name in free)


def test_layer_decay_slows_the_lower_layers():
    model = create_model("rmt_pico")
    optimizer = build_optimizer(model, replace(quickstart(), layer_decay=0.5), lr=1e-3)
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    names = {name: scale[id(p)] for name, p in model.named_parameters()}
    assert names["head.fc.weight"] == 1
    assert (
        names["stem.0.weight"] < names["stages.0.blocks.0.attn.q.weight"] < names["stages.2.blocks.0.attn.q.weight"] < 1
    )


@pytest.mark.parametrize(
    ("batch", "accumulate", "base", "expected"), [(128, 1, 1024, 1.25e-4), (128, 4, 1024, 5e-4), (128, 4, 0, 1e-3)]
)
def test_the_peak_rate_follows_the_effective_batch(batch, accumulate, base, expected):
    recipe = replace(quickstart(), lr=1e-3, batch_size=batch, accumulate=accumulate, lr_base_batch=base)
    assert peak_lr(recipe) == pytest.approx(expected)
    assert effective_batch(replace(recipe, devices=2)) == 2 * batch * accumulate


def test_the_schedule_is_a_linear_warm_up_and_a_cosine_by_update():
    recipe = replace(quickstart(), epochs=10, warmup_epochs=2.0, warmup_lr=1e-6, min_lr=1e-5)
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = CosineSchedule(optimizer, recipe, steps_per_epoch=5)
    for step in range(50):
        schedule.step_update(step)
        if step < 10:
            expected = 1e-6 + (1e-3 - 1e-6) * step / 10
        else:
            expected = 1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 50))
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-9)
    schedule.step_update(50)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-5)


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adamw():
    """The first update of a matrix is 0.2·√(longer side)·U·Vᵀ of its gradient, about; that of a norm is its sign."""
    torch.manual_seed(0)
    model = create_model("rmt_nano", num_classes=5)
    optimizer = build_optimizer(model, replace(quickstart(), optimizer="muon", weight_decay=0.0), lr=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.randn_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        update = (p.detach() - before[name]) / -1e-3
        if p.ndim > 1 and p.shape[1] > 1:
            values = torch.linalg.svdvals(update.flatten(1)) / (0.2 * max(update.flatten(1).shape) ** 0.5)
            assert values.quantile(0.1) > 0.6, name  # of the gradient: a tenth of the largest in a square matrix
            assert values.max() < 1.3, name
        else:
            assert torch.equal(update.sign(), p.grad.sign()), name
            assert update.std() < 0.1 + update.abs().mean() * 1.2, name


def test_muon_needs_a_timm_that_has_it(monkeypatch):
    monkeypatch.setattr("rmt.training.optimizers.list_optimizers", lambda name: [])
    with pytest.raises(RMTError, match="--optimizer muon needs a newer timm"):
        build_optimizer(create_model("rmt_test"), replace(quickstart(), optimizer="muon"), lr=1e-3)


def test_muon_does_not_divide_matrices():
    (problem,) = replace(quickstart(), optimizer="muon", strategy="fsdp").problems()
    assert "--optimizer muon does not work with --strategy fsdp" in problem
