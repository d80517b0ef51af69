"""Detectors deployed, compiled, under autocast and in double precision."""

import pytest
import torch
from helpers.detectors import HEADS, scene, scenes, tiny

import rmt


def assert_same(got, expected, **tolerance):
    for mine, other in zip(got, expected, strict=True):
        assert len(mine["scores"]) == len(other["scores"]) > 0
        for key in ("boxes", "scores"):
            torch.testing.assert_close(mine[key], other[key], **tolerance)
        assert torch.equal(mine["labels"], other["labels"])


@pytest.mark.parametrize("head", HEADS)
def test_deployed(head):
    torch.manual_seed(0)
    model = tiny(head, score_threshold=0.0, detections=5)
    with torch.no_grad():
        for module in model.pyramid.backbone.modules():  # statistics that fold into something
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
        model = model.double().eval()
        names = set(model.state_dict())
        image = scene()[0].double()
        fast = rmt.deploy(model)
        assert_same(fast([image]), model([image]), rtol=1e-8, atol=1e-8)
    assert set(model.state_dict()) == names != set(fast.state_dict())
    assert not any(p.requires_grad for p in fast.parameters())


def compiled(model, **kwargs):
    """As the docs say: the part with fixed shapes, in place, so that names stay."""
    model.backbone.compile(dynamic=False, fullgraph=True, **kwargs)
    return model


@pytest.fixture
def _reset():
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_reset")
@pytest.mark.parametrize("mode", ["eval", pytest.param("train", marks=pytest.mark.slow)])
def test_the_backbone_and_fpn_are_one_graph(mode):
    """Tracing alone decides that; code generation takes minutes."""
    torch.manual_seed(0)
    images, targets = scenes()
    model = tiny("mask_rcnn", rpn_batch=10**6, rois_per_image=10**6)
    names = list(model.state_dict())
    expected = model.eval()(images) if mode == "eval" else model.train()(images, targets)
    fast = compiled(tiny("mask_rcnn", rpn_batch=10**6, rois_per_image=10**6), backend="eager")
    if mode == "eval":
        assert_same(fast.eval()(images), expected, rtol=1e-3, atol=1e-3)
    else:
        losses = fast.train()(images, targets)
        for name, loss in expected.items():
            torch.testing.assert_close(losses[name], loss, rtol=1e-3, atol=1e-4)
        sum(losses.values()).backward()
    assert list(fast.state_dict()) == names


@pytest.mark.slow
@pytest.mark.usefixtures("_reset")
def test_code_generation():
    torch.manual_seed(0)
    images, _ = scenes()
    with torch.no_grad():
        expected = tiny("retinanet", score_threshold=0.0).eval()(images)
        assert_same(compiled(tiny("retinanet", score_threshold=0.0)).eval()(images), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("head", HEADS)
def test_bfloat16(head):
    """Boxes and losses stay float32: at 1,333 px bfloat16 has steps of 8."""
    images, targets = scenes()
    model = tiny(head, score_threshold=0.0, detections=5).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(images, targets)
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        with torch.no_grad():
            found = model.eval()(images)[0]
    assert found["boxes"].dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_the_same_seed_draws_the_same_samples(head):
    images, targets = scenes()
    losses = []
    for _ in range(2):
        model = tiny(head).train()
        torch.manual_seed(3)
        losses.append(model(images, targets))
    assert all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
