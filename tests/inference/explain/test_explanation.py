"""`Predictor.explain` for the three tasks, on networks with random weights, against computations made here."""

import copy

import numpy as np
import pytest
import torch
from helpers.detectors import tiny
from PIL import Image

import rmt
from rmt.data.transforms import eval_transform, shown_part
from rmt.errors import RMTError
from rmt.inference.classify import ClassifyPredictor
from rmt.inference.detect import DetectPredictor
from rmt.inference.explain.attention import half_radius, receptive_fields, rollout, token_at
from rmt.inference.explain.evidence import STEPS, grad_cam, integrated_gradients
from rmt.inference.runtime import TorchRuntime
from rmt.inference.segment import SegmentPredictor
from rmt.model.attention_maps import attention_inputs, query_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def photo() -> Image.Image:
    return Image.effect_noise((120, 90), 80).convert("RGB")


@pytest.fixture(scope="module")
def classifier() -> ClassifyPredictor:
    torch.manual_seed(0)
    network = rmt.create_model("rmt_test", num_classes=3, depths=(1, 2, 1, 1))
    preprocessing = dict(size=[64, 64], mean=[0.5] * 3, std=[0.25] * 3, interpolation="bicubic", crop_pct=0.8)
    metadata = dict(classes=["red", "green", "blue"], preprocessing=preprocessing, model="rmt_test")
    return ClassifyPredictor(TorchRuntime(network, CPU), metadata)


@pytest.fixture(scope="module")
def segmenter() -> SegmentPredictor:
    torch.manual_seed(0)
    network = rmt.segmenter("semantic_fpn", "rmt_test", num_classes=3, head_args=dict(channels=8))
    metadata = dict(classes=["road", "sky", "car"], preprocessing=dict(size=[64, 64]), model="rmt_test")
    predictor = SegmentPredictor(TorchRuntime(network, CPU), metadata)
    predictor.preprocessing |= dict(short_side=64, long_side=256)
    return predictor


def detector(head: str) -> DetectPredictor:
    network = tiny(head, **dict(score_threshold=0.0, detections=20))
    metadata = dict(classes=["a", "b", "c"], preprocessing=dict(size=[64, 96]), metrics={}, model="rmt_pico")
    return DetectPredictor(TorchRuntime(network, CPU), metadata)


def test_a_classifier(classifier, photo):
    found = classifier.explain(photo)
    best, *_ = classifier.predict(photo, top_k=3)[0]
    assert found.target == best.label and found.decision.startswith(f"{best.label} {100 * best.probability:.1f} %")
    assert [view.grid for view in found.stages] == [(16, 16), (8, 8), (4, 4), (2, 2)]
    assert [view.block for view in found.stages] == [1, 2, 1, 1]
    for view in found.stages:
        assert view.attention.shape == (2, *view.grid) and view.attention.min() >= 0
        np.testing.assert_allclose(view.attention.sum((1, 2)), 1, rtol=1e-5)
        assert view.decay[0][view.query] == 1 and view.decay.min() > 0
        distances = np.abs(np.indices(view.grid) - np.array(view.query)[:, None, None]).sum(0)
        np.testing.assert_allclose(view.mean_distance, (view.attention * distances).sum((1, 2)), rtol=1e-4)
        np.testing.assert_allclose(view.receptive_field.sum(), 1, rtol=1e-4)
    assert found.rollout.shape == (16, 16) and found.rollout.sum() == pytest.approx(1, abs=1e-5)
    assert found.grad_cam_stage == 2 and found.grad_cam.shape == (8, 8) and found.grad_cam.min() >= 0
    assert found.integrated_gradients.shape == (64, 64)
    values = found.values()
    assert values["stages"][1]["token"] == pytest.approx(8 * 72 / 64, abs=0.01)  # the crop is 72 of 90 pixels
    assert len(values["stages"][0]["mean_distance"]) == 2


def test_the_same_point_is_looked_from_in_every_form(classifier, photo):
    array, corner = np.asarray(photo), (30, 40)
    whole = classifier.explain(array, at=corner, evidence=False, target="blue")
    assert whole.at == corner and whole.target == "blue" and whole.grad_cam is None
    # The view is the middle 72 × 72 pixels, so x 30 is 6 of 72, and y 40 is 31 of 72.
    assert [view.query for view in whole.stages] == [(6, 1), (3, 0), (1, 0), (0, 0)]
    with torch.no_grad():
        pixels = eval_transform(**classifier.preprocessing)(photo)[None]
        entry = attention_inputs(classifier.model, pixels)[0]
        wanted = query_weights(entry.attention, entry.tokens, [(6, 1)])[0]
    np.testing.assert_allclose(whole.stages[0].attention, wanted, rtol=1e-5)


def test_grad_cam_is_that_of_its_equation(classifier, photo):
    """ReLU of the maps, each weighted by the mean of its gradient."""
    subject = classifier.subject(photo, None, "green")
    cam, stage = grad_cam(subject)
    network = classifier.model
    maps = network.forward_intermediates(subject.pixels, intermediates_only=True)[stage - 1].detach().requires_grad_()
    logit = network.forward_head(network.stages[stage:](maps))[0, 1]
    (gradient,) = torch.autograd.grad(logit, maps)
    wanted = (gradient.mean((2, 3), keepdim=True) * maps).sum(1)[0].relu()
    np.testing.assert_allclose(cam, (wanted / wanted.max()).detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["classifier", "segmenter", "retinanet", "cascade_mask_rcnn"])
def test_integrated_gradients_add_up_to_the_score(kind, photo, request):
    predictor = request.getfixturevalue(kind) if kind in ("classifier", "segmenter") else detector(kind)
    subject = predictor.subject(photo, None, None)
    with torch.no_grad():
        gain = subject.score(subject.pixels) - subject.score(subject.baseline.expand_as(subject.pixels))
        assert subject.score(subject.pixels.repeat(2, 1, 1, 1)).shape == (2,)
    total = integrated_gradients(subject, steps=12).sum()
    assert STEPS >= 12 and total == pytest.approx(gain.item(), rel=0.05, abs=2e-3)


def test_receptive_fields_are_gradients(classifier, photo):
    """By finite differences at some pixels, in float64."""
    pixels = classifier.subject(photo, None, None).pixels.double()
    network = copy.deepcopy(classifier.model).double()
    fields = receptive_fields(network, pixels, (20, 40))
    norms = lambda x: network.forward_intermediates(x, intermediates_only=True)[1][0, :, 5, 2].abs().sum()  # noqa: E731
    influence = {}
    with torch.no_grad():
        for row, column in ((40, 20), (42, 17), (30, 25)):
            total = 0.0
            for colour in range(3):
                moved = [pixels.clone(), pixels.clone()]
                moved[0][0, colour, row, column] += 1e-5
                moved[1][0, colour, row, column] -= 1e-5
                total += abs(float(norms(moved[0]) - norms(moved[1])) / 2e-5)
            influence[row, column] = total
    first = influence[40, 20] / fields[1][40, 20]
    assert all(value / fields[1][place] == pytest.approx(first, rel=1e-3) for place, value in influence.items())


def test_rollout_is_the_product_of_all_attentions(classifier, photo):
    inputs = attention_inputs(classifier.model, classifier.subject(photo, None, None).pixels)
    share = np.full(4, 0.25)  # of the 2 × 2 tokens of the last stage
    side = 2
    for entry in reversed(inputs):
        height = entry.tokens.shape[1]
        if height != side:
            share, side = np.kron(share.reshape(side, side), np.ones((2, 2))).ravel() / 4, height
        places = [(row, column) for row in range(height) for column in range(height)]
        matrix = query_weights(entry.attention, entry.tokens, places).mean(1).flatten(1).numpy()
        share = share @ (0.5 * np.eye(height**2) + 0.5 * matrix)
    np.testing.assert_allclose(rollout(classifier.model, inputs, None).ravel(), share, rtol=1e-4)
    corner = np.zeros((64, 64), dtype=bool)
    corner[:20, :20] = True
    assert rollout(classifier.model, inputs, corner)[:8, :8].sum() > 1.1 * share.reshape(16, 16)[:8, :8].sum()


def test_a_segmenter(segmenter, photo):
    labels = segmenter.segment(photo)
    found = segmenter.explain(photo, at=(100, 20), evidence=False)
    assert found.target == segmenter.classes[labels[20, 100]]
    assert found.size == (64, 85) and found.view == pytest.approx((0, 0, 120, 90))
    assert found.stages[0].query == (int(20 * 64 / 90 // 4), int(100 * 85 / 120 // 4))
    assert found.rollout.shape == (16, 22) and found.drawn.size[0] >= 120
    top = segmenter.explain(photo, evidence=False)
    counts = labels.flatten().bincount(minlength=3)
    assert top.target == segmenter.classes[int(counts.argmax())]
    assert labels[int(top.at[1]), int(top.at[0])] == counts.argmax()


def test_a_segmenter_of_windows_shows_the_one_around_the_point(segmenter):
    wide = Image.effect_noise((600, 100), 80).convert("RGB")
    segmenter.preprocessing |= dict(inference="sliding", short_side=0)
    try:
        found = segmenter.explain(wide, at=(400, 50), evidence=False)
        edge = segmenter.explain(wide, at=(599, 0), evidence=False)
    finally:
        del segmenter.preprocessing["inference"]
        segmenter.preprocessing["short_side"] = 64
    assert found.view == (368, 18, 432, 82) and found.stages[0].query == (8, 8)
    assert edge.view == (536, 0, 600, 64) and edge.stages[0].query == (0, 15)


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_a_detector(head, photo):
    predictor = detector(head)
    found = predictor.explain(photo, evidence=False)
    (objects,) = predictor.predict(photo)
    assert found.decision == f"{predictor.classes[objects.labels[0]]} {objects.scores[0]:.2f}"
    left, top, right, bottom = objects.boxes[0]
    assert left <= found.at[0] <= right and top <= found.at[1] <= bottom
    last = predictor.classes[objects.labels[-1]]
    assert predictor.explain(photo, target=last, evidence=False).decision.startswith(last)


def test_a_score_of_a_box_is_that_of_its_class(photo):
    """Of the anchors over a box RetinaNet's detection has the highest score: the logit is at least as high."""
    predictor = detector("retinanet")
    (objects,) = predictor.predict(photo)
    subject = predictor.subject(photo, None, None)
    assert subject.score(subject.pixels).sigmoid().item() >= 0.5 * objects.scores[0]


def test_points_and_classes_that_are_not_there(classifier, segmenter, photo):
    with pytest.raises(RMTError, match=r"--at 120,5 lies outside the image: x is at most 119, y 89"):
        segmenter.explain(photo, at=(120, 5))
    with pytest.raises(RMTError, match=r"outside what the network is shown of the image: x from 24 to 95, y from 9"):
        classifier.explain(photo, at=(5, 45), evidence=False)
    with pytest.raises(RMTError, match="no class 'gren': did you mean green"):
        classifier.explain(photo, target="gren")
    with pytest.raises(RMTError, match=r"no class 'zebra': it knows \w+, .*, \w+$"):
        segmenter.explain(photo, target="zebra")


def test_of_many_classes_the_nearest_are_named(classifier, monkeypatch):
    monkeypatch.setattr(
        classifier, "classes", tuple(f"animal {letter}{number}" for letter in "abcd" for number in range(9))
    )
    for name, hint in (("animal a", r"did you mean( or animal a\d|animal a\d| ){3,5}\? \("), ("zzz", "")):
        with pytest.raises(RMTError, match=f"no class '{name}': {hint}`rmt info CHECKPOINT --json` lists all 36"):
            classifier.explain("nowhere.png", target=name)


def test_networks_without_our_attention_or_gradients(photo):
    preprocessing = dict(size=[64, 64], mean=[0.5] * 3, std=[0.5] * 3, crop_pct=1.0)
    metadata = dict(classes=[], preprocessing=preprocessing, model="resnet10t")
    predictor = ClassifyPredictor(TorchRuntime(rmt.create_model("rmt_test", num_classes=2), CPU), metadata)
    predictor.runtime.model = torch.nn.Linear(2, 2)
    with pytest.raises(RMTError, match="resnet10t is a network of timm without Manhattan attention"):
        predictor.explain(photo)
    predictor.runtime = object()
    with pytest.raises(RMTError, match="an exported file has no gradients"):
        predictor.explain(photo)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((120, 90), dict(size=64, crop_pct=0.8)),
        ((70, 201), dict(size=(48, 64), crop_pct=1.0)),
        ((40, 50), dict(size=64, crop_pct=1.0, pad_to=64)),
        ((2000, 20), dict(size=32, crop_pct=1.0)),
    ],
)
def test_the_shown_part_is_what_the_transform_keeps(size, options):
    """A ramp of brightness along each axis says where the pixels of the result come from."""
    left, top, right, bottom = shown_part(size, **options)
    for axis, (low, high) in enumerate(((left, right), (top, bottom))):
        ramp = (np.arange(size[axis]) + 0.5) / size[axis]
        values = np.broadcast_to(ramp if axis == 0 else ramp[:, None], size[::-1])
        image = Image.fromarray(np.uint8(255 * values)).convert("RGB")
        result = eval_transform(**options, mean=[0] * 3, std=[1] * 3)(image)[0].numpy()
        line = result.mean(axis=axis)  # along the other axis
        places = low + (np.arange(len(line)) + 0.5) * (high - low) / len(line)
        inside = (places > 1) & (places < size[axis] - 1)
        covered = result.max(axis=axis)[inside] if "pad_to" in options else line[inside]
        np.testing.assert_allclose(covered * size[axis], places[inside], atol=0.03 * size[axis])


def test_radius_and_token():
    field = np.zeros((9, 9), dtype=np.float32)
    field[4, 4] = field[4, 7] = 0.4
    field[0, 0] = 0.2
    assert half_radius(field, (4.5, 4.5)) == 3 and half_radius(field, (4.5, 4.5), 0.9) == pytest.approx(4 * 2**0.5)
    assert token_at((17.2, 3.9), 4, (3, 5)) == (0, 4) and token_at((99, -1), 4, (3, 5)) == (0, 4)
