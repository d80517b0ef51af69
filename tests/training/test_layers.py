"""Layer-wise learning rates and frozen stages, for the networks of all three tasks."""

import pytest
import torch
from helpers import detect_runs, runs
from helpers.segment_data import make_segments
from torch import nn

import rmt
from rmt.model import create_model
from rmt.recipes import SegmentRecipe
from rmt.training.layers import freeze_stages, layer_scales
from rmt.training.module import TrainingModule
from rmt.training.optimizers import build_adamw

TASKS = ("classify", "detect", "segment")


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """recipe(task, field=value, …): a short run with BatchNorm in the stem and between the stages."""
    for task in TASKS:
        monkeypatch.setattr(f"rmt.tasks.{task}.report.draw_report", lambda *args: None)

    def make(task, **changes):
        changes = dict(output=str(tmp_path / "run"), ema_decay=0.5, drop_path=0.2) | changes
        if task == "classify":
            return runs.tiny_recipe(**dict(epochs=2, warmup_epochs=0.0) | changes)
        if task == "detect":
            return detect_runs.tiny_recipe(**changes)
        data = make_segments(tmp_path / "pairs", train=4, val=1)
        values = dict(name="s", data=str(data), head_width=8, batch_size=4, crop_size=64, device="cpu", workers=0)
        return SegmentRecipe(iterations=4, validate_every=2, model="rmt_test", decay_norms=False, **values | changes)

    return make


def tiny_detector():
    narrow = dict(fpn_channels=8, box_fc_width=8, mask_convs=1, mask_width=8)
    return rmt.detector("mask_rcnn", create_model("rmt_test", depths=(1, 2, 1, 1)), 2, **narrow)


def test_each_layer_is_slower_than_the_one_above_and_the_head_is_not():
    """Six layers below the head: the stem and five blocks, a downsampling with the first block of its stage."""
    model = tiny_detector()
    order = ["stem", *(f"stages.{i}.blocks.{j}." for i, j in ((0, 0), (1, 0), (1, 1), (2, 0), (3, 0)))]
    scales = layer_scales(model, 0.5)
    found = {name: scales[id(p)] for name, p in model.pyramid.backbone.named_parameters()}
    for layers_above, prefix in enumerate(reversed(order), start=1):
        assert {scale for name, scale in found.items() if name.startswith(prefix)} == {0.5**layers_above}
    assert found["stages.1.downsample.0.weight"] == found["stages.1.blocks.0.attn.q.weight"] == 0.5**4
    recipe = detect_runs.tiny_recipe(layer_decay=0.5, decay_norms=False, weight_decay=0.1)
    optimizer = build_adamw(model, recipe, lr=1.0)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    norms = {id(p) for m in model.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d) for p in m.parameters()}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates) == len(list(model.parameters()))
    for parameter in model.parameters():
        expected = scales.get(id(parameter), 1.0), 0.0 if id(parameter) in norms else 0.1
        assert rates[id(parameter)] == expected
    plain = build_adamw(model, detect_runs.tiny_recipe(decay_norms=True), lr=1.0)
    assert [group["lr"] for group in plain.param_groups] == [1.0]


@pytest.mark.parametrize("task", TASKS)
def test_frozen_stages_stay_as_they_are_and_in_eval_mode(recipe, task, monkeypatch):
    seen = []
    step = TrainingModule.training_step

    def look(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        backbone = getattr(self.model, "pyramid", None)
        backbone = self.model if backbone is None else backbone.backbone
        modes = {name: module.training for name, module in backbone.named_modules() if isinstance(module, LAYERS)}
        seen.append(({name: value.clone() for name, value in backbone.state_dict().items()}, modes))
        return loss

    monkeypatch.setattr(TrainingModule, "training_step", look)
    rmt.train(recipe(task, frozen_stages=2, layer_decay=0.5))
    (first, _), (last, modes) = seen[0], seen[-1]
    assert len(seen) > 3
    still = ("stem.", "stages.0.", "stages.1.")
    trained = {n for n, v in first.items() if n.endswith(("weight", "running_mean")) and not torch.equal(v, last[n])}
    assert trained and not any(name.startswith(still) for name in trained)
    assert {"stages.2.downsample.1.running_mean", "stages.3.blocks.0.attn.q.weight"} <= trained
    assert all(torch.equal(value, last[name]) for name, value in first.items() if name.startswith(still))
    for _, modes in seen:  # also after an evaluation
        assert {name for name, training in modes.items() if not training} == {n for n in modes if n.startswith(still)}


LAYERS = (nn.BatchNorm2d, nn.LayerNorm, nn.Linear, nn.Conv2d)


def test_a_frozen_stage_drops_nothing():
    model = tiny_detector()
    freeze_stages(model, 2)
    stages = model.pyramid.backbone.stages
    assert [stage.blocks[-1].drop_path.training for stage in stages] == [False, False, True, True]


def test_more_stages_than_there_are(recipe):
    with pytest.raises(rmt.RMTError, match="--frozen-stages 5: the network has 4 stages"):
        rmt.train(recipe("classify", frozen_stages=5))
