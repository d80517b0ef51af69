"""A predictor needs nothing of a network but its runtime, so that another one can take PyTorch's place."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import rmt
from rmt.errors import RMTError
from rmt.inference import predictor_class
from rmt.inference.classify import ClassifyPredictor
from rmt.inference.detect import DetectPredictor
from rmt.inference.runtime import TorchRuntime
from rmt.inference.segment import SegmentPredictor

PIXELS = np.full((40, 48, 3), 0, np.uint8)
PIXELS[10:20, 10:30] = (255, 0, 0)
IMAGE = Image.fromarray(PIXELS)
NORMALISED = {"mean": [0.0] * 3, "std": [1.0] * 3}


class FakeRuntime:
    device, precision, num_classes = torch.device("cpu"), "fp32", 2

    def __init__(self, function):
        self.function = function

    def __call__(self, images, **arguments):
        return self.function(images, **arguments)


def test_a_classifier_ranks_what_the_runtime_returns():
    preprocessing = {"size": [32, 32], "interpolation": "bicubic", "crop_pct": 1.0, "pad_to": 0, **NORMALISED}
    runtime = FakeRuntime(lambda images: torch.tensor([[0.0, 1.0]]).expand(len(images), 2))
    predictor = ClassifyPredictor(runtime, {"classes": [], "preprocessing": preprocessing})
    rankings = predictor.predict([IMAGE] * 3, batch_size=2)
    assert [[p.label for p in ranking] for ranking in rankings] == [["1", "0"]] * 3  # without names, numbers
    assert rankings[0][0].probability == pytest.approx(1 / (1 + np.exp(-1)))


def test_a_detector_gets_each_image_with_its_size():
    def found(images, sizes, paste):
        assert [tuple(image.shape) for image in images] == [(3, 40, 48)] and sizes == [(40, 48)]
        assert not paste  # masks are enlarged one by one, as they are drawn
        return [{"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.5])}]

    metadata = {"classes": ["a", "b"], "preprocessing": {"size": [40, 48]}}
    runtime = FakeRuntime(found)
    runtime.model = SimpleNamespace(mask_threshold=None)
    first, second = DetectPredictor(runtime, metadata).predict([IMAGE, IMAGE])
    assert first.to_coco([7, None]) == [] and first.masks is None
    assert second.to_coco([7, 9]) == [{"category_id": 9, "score": 0.5, "bbox": [1.0, 2.0, 2.0, 2.0]}]


def test_a_segmenter_s_pixels_are_the_runtime_s():
    metadata = {
        "classes": ["a", "b"],
        "preprocessing": {"size": [32, 32], "short_side": 0, "long_side": 0, **NORMALISED},
    }
    runtime = FakeRuntime(lambda images: torch.stack([0.5 - images[:, 0], images[:, 0]], 1))
    predictor = SegmentPredictor(runtime, metadata)
    (labels,) = predictor.predict(IMAGE)
    assert np.array_equal(labels.numpy(), PIXELS[..., 0] // 255)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_torch_runs_in_eval_mode_without_gradients_in_the_precision(precision, dtype):
    model = torch.nn.Sequential(torch.nn.Dropout(1.0), torch.nn.Linear(3, 2))
    model.num_classes = 2
    runtime = TorchRuntime(model.train(), torch.device("cpu"), precision)
    output = runtime(torch.ones(4, 3))
    assert output.dtype == dtype and not output.requires_grad and not model.training
    assert torch.allclose(output.float(), model[1](torch.ones(4, 3)), atol=1e-2)


def test_another_task_s_file_or_an_unknown_task_is_refused(tmp_path):
    path = tmp_path / "c.safetensors"
    rmt.save_checkpoint(rmt.create_model("rmt_test", num_classes=2), path, classes=("a", "b"))
    assert isinstance(rmt.load(path, device="cpu"), ClassifyPredictor)
    with pytest.raises(RMTError, match="is a model for the task 'classify'"):
        SegmentPredictor.load(path)
    with pytest.raises(RMTError, match="no such task: 'depth'; there are classify, detect, segment"):
        predictor_class("depth")
