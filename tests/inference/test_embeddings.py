"""Embeddings against features that are computed layer by layer."""

from pathlib import Path

import pytest
import torch
from helpers.networks import pico
from helpers.runs import finished_run, photos
from PIL import Image

import rmt
from rmt.data.images import BadImage
from rmt.errors import RMTError
from rmt.inference.detect import DetectPredictor
from rmt.inference.embeddings import convert
from rmt.inference.runtime import TorchRuntime
from rmt.inference.segment import SegmentPredictor

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def predictor():
    return rmt.load(finished_run(), device="cpu")


@pytest.fixture(scope="module")
def paths() -> list[Path]:
    return sorted(Path(photos()).glob("val/*/*.png"))[:5]


def test_the_default_is_what_the_last_layer_sees(predictor, paths):
    """The classifier's last layer, applied to the embeddings, gives the probabilities of the predictions."""
    features = predictor.embed(paths, batch_size=2)
    assert features.shape == (5, predictor.model.head.fc.in_features) and features.dtype == torch.float32
    probabilities = predictor.model.head.fc(features).softmax(1)
    for row, ranking in zip(probabilities, predictor.predict(paths), strict=True):
        assert all(row[p.index].item() == pytest.approx(p.probability, abs=1e-5) for p in ranking)


@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_stage_is_averaged_over_the_image(predictor, paths, stage):
    maps = {}
    hook = predictor.model.stages[stage - 1].register_forward_hook(lambda *args: maps.update(out=args[2]))
    predictor.predict(paths)
    hook.remove()
    want = maps["out"].sum((2, 3)) / maps["out"][0, 0].numel()
    torch.testing.assert_close(predictor.embed(paths, stage=stage), want)


def test_inputs_dtypes_and_mistakes(predictor, paths, tmp_path):
    one = predictor.embed(Image.open(paths[0]))
    torch.testing.assert_close(one, predictor.embed(paths)[:1])
    assert predictor.embed(paths[0].read_bytes(), dtype="fp16").dtype == torch.float16
    assert len(predictor.embed([])) == 0
    for options in ({"stage": 5}, {"stage": 0}):
        with pytest.raises(RMTError, match="--stage must lie in 1 to 4"):
            predictor.embed(paths, **options)
    with pytest.raises(RMTError, match="fp32 or fp16, not 'int8'"):
        predictor.embed(paths, dtype="int8")
    with pytest.raises(RMTError, match="use fp32"):
        convert(torch.tensor([[1e6]]), "fp16")
    (tmp_path / "bad.png").write_bytes(b"none")
    with pytest.raises(BadImage, match="bad.png"):
        predictor.embed([paths[0], tmp_path / "bad.png"])


def test_the_backbone_of_detectors_and_segmenters(paths):
    """Both normalise by the same mean and deviation here, so that one backbone gives one embedding."""
    found = []
    metadata = {"classes": list("abcde"), "preprocessing": {"size": [64, 64], "long_side": 64, "short_side": 64}}
    detector = rmt.detector("retinanet", backbone=pico(), num_classes=5)
    segmenter = rmt.segmenter("semantic_fpn", backbone=pico(), num_classes=5)
    for kind, model in ((DetectPredictor, detector), (SegmentPredictor, segmenter)):
        found.append(kind(TorchRuntime(model, CPU), dict(metadata)).embed(paths[:2]))
        assert found[-1].shape == (2, pico().num_features)
    torch.testing.assert_close(*found, rtol=0.05, atol=0.05)  # Pillow's bilinear filter and torchvision's
    stage = SegmentPredictor(TorchRuntime(segmenter, CPU), dict(metadata)).embed(paths[:1], stage=1)
    assert stage.shape == (1, pico().feature_info[0]["num_chs"])
