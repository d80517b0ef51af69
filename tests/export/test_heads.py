"""Exported detectors and segmenters: the same boxes and maps as the network's, and exact graphs of any size. Sizes,
preprocessing and calibration of all tasks."""

import json
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import rmt
from rmt.data.detection.rle import decode
from rmt.errors import RMTError
from rmt.export import ExportOptions, export, run
from rmt.export.check import compare_detections, prepare_image
from rmt.export.formats import Format
from rmt.export.graph import Graph, network_graph
from rmt.export.images import Photos
from rmt.export.quantize import quantize
from rmt.export.run import Accuracy, _size_of_whole_images
from rmt.heads import save_model
from rmt.heads.segmentation import decode_heads
from rmt.heads.segmentation.decode_heads import average_bins
from rmt.inference.detect import DetectPredictor
from rmt.inference.exported import ExportedRuntime
from rmt.model.networks import create_network

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


@pytest.fixture
def unconverted(monkeypatch):
    """`export` writes the metadata alone, and checks the graph itself."""
    graphs = []
    convert = lambda graph, *_: graphs.append(graph)  # noqa: E731
    save = lambda model, metadata, path: path.write_text(metadata)  # noqa: E731
    monkeypatch.setattr(Graph, "capture", lambda graph: None)
    monkeypatch.setattr(run, "format_named", lambda name: Format(".onnx", ("fp32",), convert, save, (".onnx",)))
    monkeypatch.setattr(run, "open_exported", lambda *_, **__: GraphByPyTorch(graphs[-1], 3))


def write_timm(path: Path, name: str, **options) -> Path:
    """A classifier of timm for images of 64², without mean and std."""
    network = spread(create_network(name, {"num_classes": 3, **options}, 64))
    rmt.save_checkpoint(network, path, classes=CLASSES, preprocessing=dict(size=[64, 64]))
    return path


VIT = partial(write_timm, name="vit_tiny_patch16_224", depth=1, embed_dim=24, num_heads=2)
SWIN = partial(write_timm, name="swin_tiny_patch4_window7_224", depths=(1, 1), embed_dim=12, num_heads=(1, 2))


@pytest.mark.parametrize(
    ("write", "sides"),
    [(VIT, (64, 96)), (SWIN, (64, 96)), (partial(write_segmenter, head="semantic_fpn"), (48,))],
    ids=["vit", "swin", "sliding"],
)
def test_both_accuracies_are_of_images_of_one_size(write, sides, unconverted, tmp_path):
    """Otherwise the change of size would count as a loss by int8. The sizes are those that the file says."""
    sizes = []

    def measure(path, predictor):
        metadata = predictor.metadata if predictor else json.loads(path.read_text())
        sizes.append(metadata["preprocessing"]["size"])
        return 90.0

    source, options = write(tmp_path / "m.safetensors"), ExportOptions(image_size=sides)
    exported = export(source, options=options, images=PHOTOS, accuracy=Accuracy("m", 2, measure), log=lambda _: None)
    assert sizes == [[sides[0], sides[-1]]] * 2 == exported["check"]["sizes"] * 2
    assert exported["input"]["shape"] == [1, 3, sides[0], sides[-1]]


def test_labels_that_the_network_does_not_know_are_refused_before_the_conversion(monkeypatch, tmp_path):
    monkeypatch.setattr(Graph, "capture", lambda graph: pytest.fail("captured"))

    def measure(path, predictor):
        raise RMTError("the classes differ")

    with pytest.raises(RMTError, match="the classes differ"):
        export(VIT(tmp_path / "m.safetensors"), images=PHOTOS, accuracy=Accuracy("m", 2, measure), log=lambda _: None)


def test_a_size_that_a_network_of_timm_does_not_take_is_one_line(unconverted, tmp_path):
    source = write_timm(tmp_path / "m.safetensors", "convit_tiny", depth=1)
    with pytest.raises(RMTError, match=r"^--image-size 64 96: convit_tiny does not take it: "):
        export(source, options=ExportOptions(image_size=(64, 96)), images=PHOTOS, log=lambda _: None)


def test_a_classifier_without_mean_and_std_has_those_of_imagenet(unconverted, tmp_path):
    source = VIT(tmp_path / "m.safetensors")
    export(source, images=PHOTOS, log=lambda _: None)
    found = json.loads(source.with_suffix(".onnx").read_text())["preprocessing"]
    assert found == dict(size=[64, 64], mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    predictor = rmt.load(source, device="cpu")
    wanted = next(predictor.normalized(predictor.transform()(PHOTOS[0])[None]))[0]
    torch.testing.assert_close(prepare_image(predictor, PHOTOS[0], (64, 64)), wanted)


def test_calibration_images_are_read_one_after_another(monkeypatch):
    """As tensors, 300 images for a detector take gigabytes."""
    done = []

    class Dataset(list):  # as NNCF's
        def __init__(self, source, transform):
            assert not done and len(source) == 2
            super().__init__(done.append("fed") or transform(item) for item in source)

    kinds = SimpleNamespace(TRANSFORMER="")
    fake = SimpleNamespace(Dataset=Dataset, ModelType=kinds, quantize=lambda model, data, **_: data)
    monkeypatch.setitem(sys.modules, "nncf", fake)
    photos = Photos(lambda index: done.append("read") or PHOTOS[index], range(2))
    prepare = lambda image: done.append("prepared") or torch.zeros(3, 8, 8)  # noqa: E731
    fed = quantize(None, photos, prepare, by_name=True)
    assert [each["images"].shape for each in fed] == [(1, 3, 8, 8)] * 2
    assert done == ["read", "fed", "prepared"] * 2


def test_a_detector_around_a_graph_finds_the_same_boxes(tmp_path):
    source = write_detector(tmp_path / "d.safetensors", convs=1)
    ours = rmt.load(source, device="cpu")
    graph = network_graph(ours.model, (64, 96), dynamic=False)
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
    export(source, target, ExportOptions("torch", image_size=(48,)), images=PHOTOS, log=lambda _: None)
    assert rmt.load(target, device="cpu").predict(PHOTOS)[0].shape == (64, 96)  # by windows of 48
    with pytest.raises(RMTError, match="--image-size 48 64: the windows of this segmenter are square"):
        export(source, target, ExportOptions("torch", image_size=(48, 64)), images=PHOTOS, log=lambda _: None)


TWO_STAGES = dict(mask_width=8, box_fc_width=16, box_conv_width=8, pre_nms=(200, 200), post_nms=(60, 60))


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("mask_rcnn", dict(aligned=False, sampling_ratio=2)),
        ("cascade_mask_rcnn", dict(masks=False, score_average="probabilities")),
        ("cascade_mask_rcnn", {}),
    ],
)
def test_a_two_stage_detector_around_a_graph_finds_the_same_objects(head, options, tmp_path):
    """The boxes of some are cut off, regions lie at all levels, and suppression removes most."""
    source = write_detector(tmp_path / "d.safetensors", head, **TWO_STAGES, **options)
    ours = rmt.load(source, device="cpu")
    graph = network_graph(ours.model, (64, 96), dynamic=False)
    theirs = DetectPredictor(DetectPredictor.wrap_exported(GraphByPyTorch(graph, 3), ours.metadata), ours.metadata)
    for wanted, found in zip(ours.predict(PHOTOS), theirs.predict(PHOTOS), strict=True):
        assert len(wanted.boxes) > 20
        assert_same_objects(found, wanted)
    # A smaller image is padded. Its boxes end at its edge.
    (found,) = theirs.predict(PHOTOS[0].resize((70, 60)))
    assert len(found.boxes) and found.boxes[:, 2].max() <= 70 and found.boxes[:, 3].max() <= 60


def assert_same_objects(found, wanted):
    """Each of one side is on the other; the order of nearly equal scores is free."""
    assert len(found.boxes) == len(wanted.boxes) and (found.masks is None) == (wanted.masks is None)
    np.testing.assert_allclose(found.scores, wanted.scores, atol=1e-4)
    free = np.ones(len(found.boxes), bool)
    for i, box in enumerate(wanted.boxes):
        near = (abs(found.boxes - box).max(1) < 0.05) & (found.labels == wanted.labels[i]) & free
        j = int(near.argmax())
        assert near[j] and abs(found.scores[j] - wanted.scores[i]) < 1e-4
        free[j] = False
        if wanted.masks is not None:
            theirs, ours = (decode(side.masks[k], 64, 96) for side, k in ((found, j), (wanted, i)))
            assert (theirs != ours).sum() <= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ExportOptions(dynamic=True), "--dynamic: two-stage detectors are exported for images of one size"),
        (ExportOptions("openvino", precision="bf16"), "--precision bf16: two-stage detectors are offered in fp32"),
        (ExportOptions("aoti"), "--format aoti: two-stage detectors are offered in onnx, openvino and torch"),
    ],
)
def test_what_two_stage_detectors_are_not_offered_in(options, message, tmp_path):
    source = write_detector(tmp_path / "m.safetensors", "mask_rcnn", **TWO_STAGES)
    with pytest.raises(RMTError, match=message):
        export(source, options=options, images=PHOTOS)
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]


def test_an_exported_detector_without_its_outputs_is_refused(tmp_path):
    metadata = rmt.load(write_detector(tmp_path / "d.safetensors", "mask_rcnn", **TWO_STAGES)).metadata
    retinanet = rmt.load(write_detector(tmp_path / "r.safetensors", convs=1)).model
    runtime = GraphByPyTorch(network_graph(retinanet, (64, 96), dynamic=False), 3)
    with pytest.raises(RMTError, match=r"d\.onnx has no output boxes; export it again"):
        DetectPredictor.wrap_exported(runtime, metadata)


def test_a_detector_s_graph_of_other_classes_or_shapes_is_one_line(tmp_path):
    ours = rmt.load(write_detector(tmp_path / "r.safetensors", convs=1), device="cpu")
    graph = network_graph(ours.model, (64, 96), dynamic=False)
    runtime = GraphByPyTorch(graph, 7)
    with pytest.raises(RMTError, match=r"d\.onnx has outputs for 3 classes, and its metadata say 7"):
        DetectPredictor.wrap_exported(runtime, ours.metadata)([torch.rand(3, 64, 96)])
    runtime = GraphByPyTorch(graph, 3)
    runtime.outputs.reverse()
    runtime.run = lambda images: [torch.rand(1, 5, 4).numpy(), torch.rand(1, 5, 3).numpy()]
    with pytest.raises(RMTError, match=r"d\.onnx cannot be run: [^\n]*$"):
        DetectPredictor.wrap_exported(runtime, ours.metadata)([torch.rand(3, 64, 96)])


def test_a_segmenter_of_whole_images_gets_the_size_of_its_images():
    preprocessing = dict(long_side=128, short_side=96)
    photos = [Image.new("RGB", (640, 480)), Image.new("RGB", (320, 240))]
    assert _size_of_whole_images(None, preprocessing, photos, labelled=True) == (96, 128)
    assert _size_of_whole_images((64,), preprocessing, photos, labelled=False) == (64, 64)
    with pytest.raises(RMTError, match=r"have 96×128 pixels .*--dynamic, or with --image-size 96 128$"):
        _size_of_whole_images((64,), preprocessing, photos, labelled=True)
    with pytest.raises(RMTError, match=r"have 96×128 and 128×96 pixels .*: export it with --dynamic$"):
        _size_of_whole_images(None, preprocessing, [*photos, Image.new("RGB", (480, 640))], labelled=False)


def test_detections_are_compared_in_pairs():
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [0, 0, 1, 1]]])
    one = dict(boxes=boxes, scores=torch.tensor([[0.9, 0.8, -1]]), labels=torch.tensor([[0, 1, 0]]))
    assert compare_detections(one, one) == (0, 2, 2)
    swapped = {name: value[:, [1, 0, 2]] for name, value in one.items()}
    assert compare_detections(swapped, one) == (0, 2, 2)
    for change in (
        dict(scores=torch.tensor([[0.9, 0.7, -1]])),
        dict(labels=torch.tensor([[0, 0, 0]])),
        dict(boxes=boxes + torch.tensor([0, 0, 0, 2.0]) * (boxes[..., :1] > 0)),
    ):
        assert compare_detections(one | change, one)[1:] == (1, 2)
    assert compare_detections(one | dict(scores=torch.tensor([[0.9, 0.8, 0.7]])), one)[1:] == (2, 3)
    assert compare_detections(one | dict(boxes=boxes / 0), one)[1:] == (0, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "head"),
    [("onnx", "mask_rcnn"), ("openvino", "mask_rcnn"), ("torch", "mask_rcnn"), ("openvino", "cascade_mask_rcnn")],
)
def test_files_of_two_stage_detectors(form, head, tmp_path, monkeypatch):
    monkeypatch.setenv("RMT_RUN_PROGRAMS", "1")
    source = write_detector(tmp_path / "m.safetensors", head, **TWO_STAGES)
    target = tmp_path / {"onnx": "m.onnx", "openvino": "m.xml", "torch": "m.pt2"}[form]
    options = ExportOptions(form, image_size=(64, 96))
    exported = export(source, target, options, images=PHOTOS, log=lambda _: None)
    assert exported["outputs"] == ["boxes", "scores", "labels", "masks"] and exported["check"]["agreement"] >= 99
    wanted, found = (rmt.load(path, device="cpu").predict(PHOTOS) for path in (source, target))
    for a, b in zip(wanted, found, strict=True):
        assert_same_objects(b, a)


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
    source, target = classifier(tmp_path), tmp_path / ("c.onnx" if form == "onnx" else "c.xml")
    options, images = ExportOptions(form, precision="int8"), dict(images=PHOTOS, calibration=PHOTOS * 5)
    scores = iter([90.0, 89.6, 90.0, 89.4])
    accuracy = Accuracy("top-1", 2, lambda path, predictor: next(scores))
    exported = export(source, target, options, **images, accuracy=accuracy, log=lambda _: None)
    assert exported["accuracy"] == {"metric": "top-1", "images": 2, "before": 90.0, "after": 89.6}
    assert rmt.load(target).precision == "int8"
    before = target.read_bytes()
    with pytest.raises(RMTError, match=r"int8 loses 0\.60 points of top-1 .* more than --max-drop 0\.5"):
        export(source, target, options, **images, accuracy=accuracy, log=lambda _: None)
    assert target.read_bytes() == before
