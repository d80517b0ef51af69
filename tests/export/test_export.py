"""`rmt export` to ONNX, OpenVINO and .pt2: the file alone predicts what the network does, or it is not written."""

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import rmt
from rmt.errors import RMTError
from rmt.export import ExportOptions, check, export
from rmt.export.check import compare
from rmt.export.graph import Graph
from rmt.export.images import folder_images
from rmt.model import describe_weights, read_metadata
from rmt.model.state_dicts import read_state_dict

# One block: converting takes seconds for each.
ONE_BLOCK = dict(
    depths=(1,), dims=(8,), num_heads=(2,), mlp_ratios=(2,), decomposed=(True,), decay_ranges=((2, 6),),
    layer_scales=(None,),
)  # fmt: skip
CAPTURE = Graph.capture
NORMALISED = dict(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.25])
CLASSES = ("ant", "bee", "cat")
PHOTOS = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (50, 44, 3), np.uint8), "RGB").resize((88, 100))
    for seed in range(3)
]


def write_model(path: Path) -> Path:
    torch.manual_seed(0)
    model = rmt.create_model("rmt_test", num_classes=3, **ONE_BLOCK)
    torch.nn.init.normal_(model.head.fc.weight, std=2.0)  # so that the classes' probabilities differ
    preprocessing = dict(size=[40, 36], interpolation="bicubic", crop_pct=0.9, **NORMALISED)
    rmt.save_checkpoint(model, path, classes=CLASSES, preprocessing=preprocessing, metrics={"epoch": 3})
    return path


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("export") / "model.safetensors")


@pytest.fixture(scope="module", autouse=True)
def captured_once():
    """All tests export the same network at the same size, and capturing it takes longer than the rest."""
    with pytest.MonkeyPatch.context() as patch:
        capture, programs = Graph.capture, {}

        def capture_once(graph: Graph):
            if graph.shape not in programs:
                programs[graph.shape] = capture(graph)
            return programs[graph.shape]

        patch.setattr(Graph, "capture", capture_once)
        yield


@pytest.fixture(scope="module")
def onnx_file(model_file) -> Path:
    lines: list[str] = []
    export(model_file, images=PHOTOS, log=lines.append)
    assert [line.split("] ")[1].split()[0] for line in lines] == ["capturing", "converting", "checking"]
    return model_file.with_suffix(".onnx")


def rankings(path: Path, **options) -> list[list[tuple[str, float]]]:
    found = rmt.load(path, device="cpu", **options).predict(PHOTOS)
    return [[(p.label, p.probability) for p in ranking] for ranking in found]


def assert_same_rankings(path: Path, model_file: Path) -> None:
    for ours, theirs in zip(rankings(path), rankings(model_file), strict=True):
        assert [label for label, _ in ours] == [label for label, _ in theirs]
        assert [p for _, p in ours] == pytest.approx([p for _, p in theirs], abs=1e-5)


def test_an_onnx_file_alone_predicts_what_the_network_does(onnx_file, model_file):
    assert_same_rankings(onnx_file, model_file)
    metadata, own = read_metadata(onnx_file), read_metadata(model_file)
    exported = metadata.pop("exported")
    assert metadata == own
    assert exported["input"] == {"name": "images", "shape": [1, 3, 40, 36]} and exported["outputs"] == ["logits"]
    assert exported["check"]["agreement"] == 100 and exported["check"]["error"] < 1e-5
    assert sorted(path.name for path in onnx_file.parent.iterdir()) == ["model.onnx", "model.safetensors"]


def test_the_onnx_file_is_valid_for_other_tools(onnx_file):
    model = onnx.load(onnx_file)
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert {prop.key for prop in model.metadata_props} == {"rmt"}
    assert {node.domain for node in model.graph.node} == {""}  # standard operators only


@pytest.mark.slow
def test_an_openvino_file_alone_predicts_what_the_network_does(model_file, tmp_path):
    target = tmp_path / "model.xml"
    exported = export(model_file, target, ExportOptions("openvino"), images=PHOTOS, log=lambda _: None)
    assert exported["check"]["error"] < 1e-5
    assert_same_rankings(target, model_file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    running = rmt.load(target, device="cpu")
    before = running.predict(PHOTOS)
    (tmp_path / "model.bin").write_bytes((tmp_path / "model.bin").read_bytes()[:100])
    assert running.predict(PHOTOS) == before  # of a mapped file the process would end here
    with pytest.raises(RMTError, match=r"model\.xml cannot be run: .*") as error:
        rmt.load(target)
    assert "\n" not in str(error.value)
    target.write_bytes(target.read_bytes()[:-200])
    with pytest.raises(RMTError, match=r"model\.xml is not a readable \.xml file"):
        rmt.load(target)


def test_a_program_of_pytorch_runs_only_if_the_user_trusts_it(model_file, tmp_path, monkeypatch):
    target = tmp_path / "model.pt2"
    export(model_file, target, ExportOptions("torch"), images=PHOTOS, log=lambda _: None)
    assert read_metadata(target)["classes"] == list(CLASSES)  # without loading the program
    with pytest.raises(RMTError, match="is a program, and loading it runs whatever its author put there"):
        rmt.load(target)
    monkeypatch.setenv("RMT_RUN_PROGRAMS", "1")
    assert_same_rankings(target, model_file)


@pytest.mark.parametrize("dynamic", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_program_in_bfloat16_is_close_and_leaves_the_network_in_float32(model_file, tmp_path, monkeypatch, dynamic):
    monkeypatch.setattr(Graph, "capture", CAPTURE)  # of another module than the other tests'
    target, options = tmp_path / "model.pt2", ExportOptions("torch", precision="bf16", dynamic=dynamic)
    exported = export(model_file, target, options, images=PHOTOS, log=lambda _: None)
    assert 1e-5 < exported["check"]["error"] < 5e-2
    monkeypatch.setenv("RMT_RUN_PROGRAMS", "1")
    for ours, theirs in zip(rankings(target), rankings(model_file), strict=True):
        assert dict(ours) == pytest.approx(dict(theirs), abs=0.02)


def test_a_fixed_graph_names_the_size_it_takes(onnx_file):
    with pytest.raises(RMTError, match=r"takes images of 40×36 pixels \(height × width\), not 64×64: .* --dynamic"):
        rmt.load(onnx_file, image_size=64)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda"}, "--device"),
        ({"precision": "bf16"}, "--precision bf16: .* was exported in fp32"),
    ],
)
def test_what_an_exported_file_does_not_offer_is_one_line(onnx_file, options, message):
    with pytest.raises(RMTError, match=message):
        rmt.load(onnx_file, **options)


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_named(onnx_file, tmp_path, share):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(onnx_file.read_bytes()[: int(share * onnx_file.stat().st_size)])
    with pytest.raises(RMTError, match=r"cut\.onnx (is not a readable|has no `rmt` metadata)"):
        rmt.load(cut)


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 400, b"\x08\x0a\x72\xff\xff\xff\xff\x0f"])
@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_no_such_file_at_all_is_one_line(tmp_path, content, suffix):
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(RMTError, match="is not a readable|has no `rmt` metadata"):
        rmt.load(path)


def test_an_archive_with_a_password_is_one_line(tmp_path):
    path = tmp_path / "m.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("program/extra/rmt", "{}")
    content = bytearray(path.read_bytes())
    content[6] |= 1  # the flags of the entry, and of its copy in the directory at the end
    content[content.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(RMTError, match="is not a readable .pt2 file .*encrypted"):
        rmt.load(path)


def test_a_file_of_another_tool_is_named(onnx_file, tmp_path):
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    path = tmp_path / "other.onnx"
    onnx.save(model, path)
    with pytest.raises(RMTError, match="has no `rmt` metadata, so rmt export did not write it"):
        rmt.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"exported": None},
        {"exported": {"format": "gguf"}},
        {"exported": {"format": "onnx", "precision": "fp32", "input": {"shape": [1, 3, 10**9, 32]}}},
        {"classes": "abc"},
    ],
)
def test_metadata_are_checked(onnx_file, tmp_path, change):
    model = onnx.load(onnx_file)
    metadata = json.loads(model.metadata_props[0].value)
    model.metadata_props[0].value = json.dumps(metadata | change)
    path = tmp_path / "changed.onnx"
    onnx.save(model, path)
    with pytest.raises(RMTError, match=r"changed\.onnx has no valid"):
        rmt.load(path)


def with_exported(onnx_file: Path, path: Path, *, classes=CLASSES, **change) -> Path:
    """The file with other metadata."""
    model = onnx.load(onnx_file)
    metadata = json.loads(model.metadata_props[0].value)
    metadata |= {"classes": list(classes), "exported": metadata["exported"] | change}
    model.metadata_props[0].value = json.dumps(metadata)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(outputs=[]), "has no valid `exported`"),
        (dict(num_classes=10**9, classes=()), "has no valid `exported`"),
        (dict(input={"name": "images", "shape": [1, 4, 40, 36]}), "has no valid `exported`"),
        (dict(num_classes=4), "has 3 class names for 4 classes"),
        (dict(num_classes=4, classes="abcd"), "has outputs for 3 classes, and its metadata say 4"),
    ],
)
def test_metadata_that_are_not_the_graph_s_are_one_line(onnx_file, tmp_path, change, message):
    path = with_exported(onnx_file, tmp_path / "changed.onnx", **change)
    with pytest.raises(RMTError, match=message):
        rmt.load(path).predict(PHOTOS[0])


def test_a_broken_program_is_one_line(onnx_file, tmp_path, monkeypatch, capfd):
    metadata = json.loads(onnx.load(onnx_file).metadata_props[0].value)
    metadata["exported"]["format"] = "torch"
    path = tmp_path / "broken.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("broken/extra/rmt", json.dumps(metadata))
    monkeypatch.setenv("RMT_RUN_PROGRAMS", "1")
    with pytest.raises(RMTError, match=r"broken\.pt2 cannot be run: [^\n]*$"):
        rmt.load(path)
    assert capfd.readouterr() == ("", "")


def test_xml_that_defines_entities_is_refused(tmp_path):
    path = tmp_path / "bomb.xml"
    path.write_text('<!DOCTYPE net [<!ENTITY a "aaaa">]><net><rt_info><rmt value="&a;"/></rt_info></net>')
    with pytest.raises(RMTError, match="it declares entities"):
        rmt.load(path)


def test_an_exported_file_has_no_weights_to_load(onnx_file, tmp_path):
    for read in (describe_weights, read_state_dict):
        with pytest.raises(RMTError, match="is an exported file, without weights to load"):
            read(onnx_file)
    with pytest.raises(RMTError, match="is an exported file; this needs the model file"):
        rmt.model.load_model(onnx_file)


class Twice(torch.nn.Module):
    def forward(self, x):
        return 2 * x.mean((2, 3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y: y + 1e-3 * y.abs().max(), r"differ from the network's by 1\.0e-03 .* nothing was written"),
        (lambda y: torch.full_like(y, torch.nan), "differ from the network's by nan"),
        (lambda y: y[:, :2], r"returns logits of \(1, 2\), not \(1, 3\)"),
    ],
)
def test_outputs_that_differ_are_refused(wrong, message):
    graph = Graph(Twice(), ["logits"], (1, 3, 8, 8), False)
    prepare = lambda image, size: torch.rand(3, *size)  # noqa: E731
    good = compare(graph, graph, PHOTOS, [(8, 8)], prepare, "fp32")
    assert good["error"] == 0 and good["agreement"] == 100 and good["images"] == 3
    with pytest.raises(RMTError, match=message):
        compare(graph, lambda x: {"logits": wrong(graph(x)["logits"])}, PHOTOS, [(8, 8)], prepare, "fp32")


def test_an_export_that_fails_leaves_the_folder_as_it_was(model_file, tmp_path, monkeypatch):
    monkeypatch.setitem(check.TOLERANCE, "fp32", -1.0)
    target = tmp_path / "model.pt2"
    target.write_bytes(b"before")
    with pytest.raises(RMTError, match="nothing was written"):
        export(model_file, target, ExportOptions("torch"), images=PHOTOS, log=lambda _: None)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"before"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(precision="bf16"), "--precision bf16: --format onnx is offered in fp32, int8"),
        (dict(precision="int8"), "--precision int8 needs --calibration FOLDER"),
        (dict(precision="int8", dynamic=True), "leave out --dynamic"),
        (dict(image_size=(8,)), "--image-size needs one number, or height and width, of at least 32"),
        (dict(dynamic=True, image_size=(32,)), "graphs of any size begin at 33 pixels"),
        (dict(max_drop=-1), "--max-drop must be at least 0"),
    ],
)
def test_options_that_do_not_go_together(model_file, options, message):
    with pytest.raises(RMTError, match=message):
        export(model_file, options=ExportOptions(**options), images=PHOTOS)


def test_the_output_s_suffix_and_folder(model_file, tmp_path):
    with pytest.raises(RMTError, match=r"the file must end in \.onnx"):
        export(model_file, tmp_path / "model.xml", images=PHOTOS)
    with pytest.raises(RMTError, match="its folder does not exist"):
        export(model_file, tmp_path / "a" / "model.onnx", images=PHOTOS)


def test_a_network_of_one_size_is_not_exported_for_any():
    graph = Graph(torch.nn.Linear(8, 1), ["logits"], (2, 3, 8, 8), True)
    with pytest.raises(RMTError, match=r"cannot be exported for any size, leave out --dynamic: "):
        graph.capture()


def test_images_of_a_folder(tmp_path):
    with pytest.raises(RMTError, match=r"--calibration .*: no readable image"):
        folder_images(tmp_path, 10, "--calibration")
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "broken.png").write_bytes(b"x")
    for number, photo in enumerate(PHOTOS):
        photo.save(tmp_path / "a" / "b" / f"{number}.png")
    found = folder_images(tmp_path, 10, "--images")
    assert len(found) == 3 and found[0] is not found[0]  # decoded when it is asked for: many would not fit the memory
    assert [photo.tobytes() for photo in found[1:]] == [photo.tobytes() for photo in PHOTOS[1:3]]
    with pytest.raises(RMTError, match="there is no such folder"):
        folder_images(tmp_path / "c", 10, "--images")
