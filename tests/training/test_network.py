"""What a recipe changes about the network: memory, compilation, statistics."""

import copy

import pytest
import torch
from helpers.networks import pico
from helpers.runs import tiny_recipe
from torch import nn

import rmt
from rmt.training.distributed.sync_batchnorm import convert_sync_batchnorm
from rmt.training.network import configure_network

CPU = torch.device("cpu")


def step(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 32, 32)
    model.zero_grad()
    model(x).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def saved_bytes(model) -> int:
    """What the forward pass keeps for the backward pass."""
    total = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.nbytes) or t, lambda t: t):
        model(torch.randn(2, 3, 64, 64))
    return sum(total)


def test_gradient_checkpointing_keeps_less_and_changes_nothing():
    plain, lean = pico(drop_path_rate=0.3), pico(drop_path_rate=0.3)
    configure_network(lean, tiny_recipe(grad_checkpointing=True), CPU)
    assert saved_bytes(lean) < 0.7 * saved_bytes(plain)
    expected, got = step(plain), step(lean)
    for name, gradient in expected.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_compile_takes_stem_and_stages_with_fixed_shapes(monkeypatch):
    compiled = []

    def compile(function, **options):
        compiled.append(options)
        return lambda *args, **kwargs: calls.append(function) or function(*args, **kwargs)

    calls: list = []
    monkeypatch.setattr(torch, "compile", compile)
    model = pico()
    before = copy.deepcopy(model).eval()(torch.ones(1, 3, 32, 32))
    configure_network(model, tiny_recipe(compile=True), CPU)
    assert compiled == [{"dynamic": False}] * 5
    torch.testing.assert_close(model.eval()(torch.ones(1, 3, 32, 32)), before)
    assert len(calls) == 5
    assert list(model.state_dict()) == list(pico().state_dict())
    copy.deepcopy(model)  # as the best weights are judged


@pytest.mark.parametrize("synchronised", [False, True])
@pytest.mark.parametrize("make", ["classifier", "segmenter", "detector"])
def test_the_backbone_s_statistics_are_frozen_and_a_head_s_learn(make, synchronised):
    """Also after `.train()`, which sets the mode of all modules; and with the head's synchronised."""
    backbone = pico(num_classes=3)
    made = {
        "classifier": lambda: backbone,
        "segmenter": lambda: rmt.segmenter("semantic_fpn", backbone, 3, head_args=dict(channels=8, fpn_channels=8)),
        "detector": lambda: rmt.detector("cascade_mask_rcnn", backbone, 3, fpn_channels=8, box_conv_width=8),
    }
    model = made[make]()
    if synchronised:
        convert_sync_batchnorm(model, CPU)
    configure_network(model, tiny_recipe(freeze_batchnorm=True), CPU)
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    of_heads = {name for name, m in norms.items() if not any(m is n for n in backbone.modules())}
    assert bool(of_heads) == (make != "classifier") and len(norms) > len(of_heads)
    for _ in range(2):
        assert {name for name, m in norms.items() if m.training} == of_heads
        model.eval().train()
    configure_network(model, tiny_recipe(), CPU)
    assert all(m.training for m in norms.values())


def test_frozen_statistics_stay_through_training(tmp_path, monkeypatch):
    from rmt.tasks.classify.module import ClassifyModule

    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    seen = []
    end = ClassifyModule.optimizer_step

    def look(self, *args, **kwargs):
        end(self, *args, **kwargs)
        seen.append([b.clone() for name, b in self.model.named_buffers() if "running" in name])

    monkeypatch.setattr(ClassifyModule, "optimizer_step", look)
    rmt.train(tiny_recipe(output=str(tmp_path), freeze_batchnorm=True, epochs=2))
    assert len(seen) == 6
    for statistics in seen:
        assert all(torch.equal(a, b) for a, b in zip(statistics, seen[0], strict=True))
        assert set(torch.cat(statistics).tolist()) == {0.0, 1.0}
