"""`rmt.detector` as its users meet it: losses, detections, odd sizes, empty images, freezing, mistakes."""

import pytest
import torch
from helpers.detectors import HEADS, scene, scenes, tiny
from torch import nn

import rmt


@pytest.mark.parametrize("head", HEADS)
def test_losses_reach_every_parameter(head):
    """With an image without objects in the batch, and with nothing else: no NaN, no parameter without a gradient."""
    images, targets = scenes()
    for chosen in (slice(0, 2), slice(1, 2)):
        model = tiny(head).train()
        losses = model(images[chosen], targets[chosen])
        assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
        sum(losses.values()).backward()
        assert not [name for name, p in model.named_parameters() if p.grad is None]


@pytest.mark.parametrize("head", HEADS)
def test_detections_of_every_size(head):
    model = tiny(head, score_threshold=0.0, detections=7).eval()
    images = [torch.rand(3, 33, 97), torch.rand(3, 64, 45)]
    with torch.no_grad():
        found = model(images)
    for image, detections in zip(images, found, strict=True):
        height, width = image.shape[1:]
        boxes, scores = detections["boxes"], detections["scores"]
        assert boxes.shape == (7, 4) and detections["labels"].shape == scores.shape == (7,)
        assert (boxes >= 0).all() and (boxes[:, 0::2] <= width).all() and (boxes[:, 1::2] <= height).all()
        assert set(detections["labels"].tolist()) <= {0, 1, 2}
        assert scores.tolist() == sorted(scores.tolist(), reverse=True)
        if head != "retinanet":
            assert detections["masks"].shape == (7, 1, height, width) and detections["masks"].dtype == torch.bool


@pytest.mark.parametrize("head", HEADS)
def test_an_image_alone_and_in_a_batch(head):
    """Padding for a larger neighbour leaves the answer nearly as it was: attention sees the padding."""
    model = tiny(head, score_threshold=0.0, detections=5).eval()
    image, _ = scene(64, 64)
    with torch.no_grad():
        alone, together = model([image])[0], model([image, torch.rand(3, 64, 64)])[0]
    for key, value in alone.items():
        torch.testing.assert_close(together[key], value, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_bytes_are_images_too(head):
    model = tiny(head, score_threshold=0.0, detections=5).eval()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(model([image]), model([image / 255]))


@pytest.mark.parametrize("head", HEADS)
def test_answers_in_the_pixels_of_another_size(head):
    """As for pictures that were resized for the network: boxes scale, masks fill them there."""
    model = tiny(head, score_threshold=0.0, detections=5).eval()
    image = torch.rand(3, 64, 96)
    with torch.no_grad():
        own, larger = model([image])[0], model([image], sizes=[(128, 288)])[0]
        again = model([image])[0]
    torch.testing.assert_close(larger["boxes"], own["boxes"] * torch.tensor([3.0, 2.0, 3.0, 2.0]))
    torch.testing.assert_close(again["boxes"], own["boxes"])
    if "masks" in own:
        assert larger["masks"].shape[2:] == (128, 288)
        for (x1, y1, x2, y2), mask in zip(larger["boxes"].tolist(), larger["masks"][:, 0], strict=True):
            rows, columns = torch.where(mask)
            if len(rows):
                assert y1 - 1 <= rows.min() and rows.max() <= y2 and x1 - 1 <= columns.min() and columns.max() <= x2


@pytest.mark.parametrize("head", HEADS)
def test_calls_that_overlap_answer_each_in_its_own_sizes(head):
    """As of two threads, of which one answers while the other is half-way: here within the first one's backbone."""
    model = tiny(head, score_threshold=0.0, detections=5).eval()
    images, sizes = [torch.rand(3, 64, 96)], [(128, 288)]
    inner = []

    def meanwhile(*_):
        if not inner:
            inner.append(None)
            inner[0] = model(images, sizes=[(32, 24)])

    with torch.no_grad():
        alone = model(images, sizes=sizes)
        with_hook = model.backbone.register_forward_hook(meanwhile)
        overlapped = model(images, sizes=sizes)
        with_hook.remove()
        torch.testing.assert_close(overlapped, alone, rtol=0, atol=0)
        torch.testing.assert_close(inner[0], model(images, sizes=[(32, 24)]), rtol=0, atol=0)


@pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn"])
def test_without_masks(head):
    model = tiny(head, masks=False)
    images, targets = scenes()
    for target in targets:
        del target["masks"]
    assert not [name for name in model.train()(images, targets) if "mask" in name]
    with torch.no_grad():
        assert "masks" not in model.eval()(images)[0]
    with pytest.raises(rmt.RMTError, match="masks=False"):
        tiny(head).train()(images, targets)


@pytest.mark.parametrize("freeze", [False, True])
def test_batch_norm_of_the_backbone_trains_by_default(freeze):
    model = tiny("cascade_mask_rcnn", freeze_bn=freeze).train()
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: m.running_mean.clone() for name, m in norms.items()}
    model(*scenes())
    moved = {name for name, m in norms.items() if not torch.equal(m.running_mean, before[name])}
    backbone = {name for name in norms if name.startswith("backbone.pyramid.backbone.")}
    assert backbone and moved == (set(norms) - backbone if freeze else set(norms))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rmt.detector("yolo"), "no detector named 'yolo'; choose one of retinanet, mask_rcnn, cascade"),
        (lambda: rmt.detector("retinanet", "rmt_huge"), "no network named"),
        (lambda: rmt.detector("retinanet", masks=False), "retinanet has no option 'masks'; choose from fpn_channels"),
        (lambda: rmt.detector("mask_rcnn", num_classes=0), "num_classes must be at least 1"),
        (lambda: tiny("mask_rcnn", stages=(0.5, 0.6)), "of one length"),
        (lambda: tiny("mask_rcnn", box_loss="l3"), "box_loss='l3' is not one of l1, smooth_l1, giou"),
        (lambda: tiny("mask_rcnn", score_average="max"), "score_average='max' is not one of"),
        (lambda: tiny("retinanet", p6_source="c4"), "p6_source='c4'"),
        (lambda: tiny("retinanet", normalise_by="pixel"), "normalise_by='pixel'"),
        (lambda: tiny("retinanet").train()([torch.rand(3, 64, 64)]), "needs targets"),
        (lambda: tiny("retinanet").train()([torch.rand(3, 64, 64)], []), "1 image but 0 targets"),
        (lambda: tiny("retinanet").eval()([torch.rand(3, 64, 64)], sizes=[(9, 9)] * 2), "1 image but 2 sizes"),
        (
            lambda: tiny("retinanet").train()([torch.rand(3, 64, 64)], [scene(boxes=((9, 9, 9, 20),), labels=(1,))[1]]),
            r"target 0 has a box without width or height, \[9.0, 9.0, 9.0, 20.0\]",
        ),
        (
            lambda: tiny("retinanet").train()([torch.rand(3, 64, 64)], [scene()[1] | dict(labels=torch.tensor([1]))]),
            r"boxes \(2, 4\) and labels \(1,\)",
        ),
        (
            lambda: tiny("retinanet").train()(
                [torch.rand(3, 64, 64)], [scene()[1] | dict(labels=torch.tensor([1, 3]))]
            ),
            "target 0 has a label 3; labels run from 0 to 2",
        ),
    ],
)
def test_mistakes_are_one_line(call, match):
    with pytest.raises(rmt.RMTError, match=match):
        call()
