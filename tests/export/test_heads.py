"""Exported detectors and segmenters: the same boxes and maps as the network's, and exact graphs of any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rmt
from rmt.errors import RMTError
from rmt.export import ExportOptions, export
from rmt.export.graph import Graph, network_graph
from rmt.heads import save_model
from rmt.heads.segmentation import decode_heads
from rmt.heads.segmentation.decode_heads import average_bins
from rmt.inference.detect import DetectPredictor
from rmt.inference.exported import ExportedRuntime

RNG = np.random.default_rng(0)
PHOTOS = [Image.fromarray(RNG.integers(0, 255, (40, 48, 3), np.uint8)).resize((96, 64)) for _ in range(2)]
CLASSES = ("a", "b", "c")
SEGMENTER = dict(
    classes=CLASSES,
    preprocessing=dict(size=[64, 64], long_side=256, short_side=0, mean=[0.5] * 3, std=[0.25] * 3, inference="sliding"),
)


def spread(model: torch.nn.Module) -> torch.nn.Module:
    """Weights with which outputs depend on every part."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


def write_detector(path: Path, head: str = "retinanet", **options) -> Path:
    torch.manual_seed(0)
    model = rmt.detector(head, backbone="rmt_test", num_classes=3, fpn_channels=16, **options)
    save_model(spread(model), path, classes=CLASSES, preprocessing=dict(size=[64, 96]))
    return path


def write_segmenter(path: Path, head: str, **options) -> Path:
    torch.manual_seed(0)
    model = spread(rmt.segmenter(head, backbone="rmt_test", num_classes=3, head_args=dict(channels=16, **options)))
    save_model(model, path, **SEGMENTER)
    return path


class GraphByPyTorch(ExportedRuntime):
    """An exported file's runtime without the file: capturing and converting a graph takes seconds."""

    def __init__(self, graph: Graph, num_classes: int) -> None:
        self.graph = graph
        fixed = {"shape": graph.input_shape}
        super().__init__(
            Path("d.onnx"),
            {"precision": "fp32", "num_classes": num_classes, "input": fixed, "outputs": list(graph.outputs)},
        )

    def open(self, path: Path) -> None:
        pass

    def run(self, images: np.ndarray) -> list[np.ndarray]:
        assert list(images.shape) == self.graph.input_shape
        return [output.numpy() for output in self.graph(torch.from_numpy(images)).values()]


def test_a_detector_around_a_graph_finds_the_same_boxes(tmp_path):
    source = write_detector(tmp_path / "d.safetensors", convs=1)
    ours = rmt.load(source, device="cpu")
    graph = network_graph(ours.model, "detect", (64, 96), dynamic=False)
    runtime = DetectPredictor.wrap_exported(GraphByPyTorch(graph, 3), ours.metadata)
    theirs = DetectPredictor(runtime, ours.metadata)
    for wanted, found in zip(ours.predict(PHOTOS), theirs.predict(PHOTOS), strict=True):
        assert len(wanted.boxes) > 5
        np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-5)
        assert np.array_equal(found.labels, wanted.labels) and found.masks is None
    # A smaller image is padded to the size of the graph, as a batch with a larger image pads it.
    small, large = PHOTOS[0].resize((70, 60)), PHOTOS[1]
    tensors = [torch.from_numpy(np.array(photo)).permute(2, 0, 1) for photo in (small, large)]
    (found, _), (wanted, _) = theirs.runtime(tensors), ours.runtime(tensors)
    torch.testing.assert_close(found["boxes"], wanted["boxes"], atol=1e-3, rtol=0)
    with pytest.raises(RMTError, match=r"takes images of 64×96 pixels .*, not 128×128"):
        theirs.runtime([torch.zeros(3, 100, 100)])


@pytest.mark.slow
@pytest.mark.parametrize("head", ["retinanet", "upernet"])
def test_a_program_of_one_size_predicts_the_same(head, tmp_path, monkeypatch):
    monkeypatch.setenv("RMT_RUN_PROGRAMS", "1")
    source, target = tmp_path / "m.safetensors", tmp_path / "m.pt2"
    if head == "retinanet":
        write_detector(source, convs=1)
        export(source, target, ExportOptions("torch", image_size=(64, 96)), images=PHOTOS, log=lambda _: None)
        wanted, found = (rmt.load(path, device="cpu").predict(PHOTOS) for path in (source, target))
        np.testing.assert_allclose(found[0].boxes, wanted[0].boxes, atol=1e-3)
        return
    write_segmenter(source, head)
    export(source, target, ExportOptions("torch"), images=PHOTOS, log=lambda _: None)
    wanted, found = (rmt.load(path, device="cpu").predict(PHOTOS) for path in (source, target))
    for a, b in zip(wanted, found, strict=True):
        assert a.shape == (64, 96) and len(a.unique()) > 1  # larger than the window of 64
        assert (a == b).float().mean() > 0.999
    with pytest.raises(RMTError, match=r"takes images of 64×64 pixels .*, not 40×50: export it with --dynamic"):
        rmt.load(target).predict(PHOTOS[0].resize((50, 40)))


def test_a_two_stage_detector_is_refused(tmp_path):
    source = write_detector(tmp_path / "m.safetensors", "mask_rcnn", mask_width=8, box_fc_width=8)
    with pytest.raises(RMTError, match="two-stage detectors cannot be exported"):
        export(source, images=PHOTOS)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


@pytest.mark.parametrize("size", [(2, 2), (3, 7), (12, 16), (13, 5), (6, 1)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_bins_by_matrices_are_adaptive_pooling(size, bins, monkeypatch):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    wanted = average_bins(x, bins)
    monkeypatch.setattr(decode_heads, "tracing", lambda x: "export")
    torch.testing.assert_close(average_bins(x, bins), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
@pytest.mark.parametrize("head", ["semantic_fpn", "upernet", "retinanet"])
def test_graphs_of_any_size(head, form, tmp_path):
    """Checked by the export itself at three sizes; and once more in the predictor."""
    if head == "retinanet":
        source = write_detector(tmp_path / "m.safetensors", convs=1)
    else:
        source = write_segmenter(tmp_path / "m.safetensors", head)
    target = tmp_path / ("m.onnx" if form == "onnx" else "m.xml")
    exported = export(source, target, ExportOptions(form, dynamic=True), images=PHOTOS, log=lambda _: None)
    assert len(exported["check"]["sizes"]) == 3 and exported["check"]["error"] < 1e-4
    photo = PHOTOS[0].resize((101, 75))
    (wanted,), (found,) = (rmt.load(path, device="cpu").predict(photo) for path in (source, target))
    if head == "retinanet":
        np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    else:
        assert (found == wanted).float().mean() > 0.999


def classifier(folder: Path) -> Path:
    model = spread(rmt.create_model("rmt_test", num_classes=3))
    preprocessing = dict(size=[64, 64], mean=[0.5] * 3, std=[0.25] * 3, interpolation="bicubic", crop_pct=1.0)
    rmt.save_checkpoint(model, folder / "c.safetensors", classes=CLASSES, preprocessing=preprocessing)
    return folder / "c.safetensors"


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_a_classifier_of_any_size(form, tmp_path):
    source, target = classifier(tmp_path), tmp_path / ("c.onnx" if form == "onnx" else "c.xml")
    export(source, target, ExportOptions(form, dynamic=True), images=PHOTOS, log=lambda _: None)
    for size in (64, 96):
        wanted, found = (rmt.load(path, device="cpu", image_size=size).predict(PHOTOS) for path in (source, target))
        assert [[p.label for p in ranking] for ranking in wanted] == [[p.label for p in ranking] for ranking in found]
    with pytest.raises(RMTError, match="from 33 pixels a side"):
        rmt.load(target, image_size=32)


@pytest.mark.optional
@pytest.mark.parametrize("form", ["onnx", "openvino"])
def test_int8_is_refused_where_it_loses_more_than_allowed(form, tmp_path):
    from rmt.export.run import Accuracy

    source, target = classifier(tmp_path), tmp_path / ("c.onnx" if form == "onnx" else "c.xml")
    options, images = ExportOptions(form, precision="int8"), dict(images=PHOTOS, calibration=PHOTOS * 5)
    scores = iter([90.0, 89.6, 90.0, 89.4])
    accuracy = Accuracy("top-1", 2, lambda path: next(scores))
    exported = export(source, target, options, **images, accuracy=accuracy, log=lambda _: None)
    assert exported["accuracy"] == {"metric": "top-1", "images": 2, "before": 90.0, "after": 89.6}
    assert rmt.load(target).precision == "int8"
    before = target.read_bytes()
    with pytest.raises(RMTError, match=r"int8 loses 0\.60 points of top-1 .* more than --max-drop 0\.5"):
        export(source, target, options, **images, accuracy=accuracy, log=lambda _: None)
    assert target.read_bytes() == before
