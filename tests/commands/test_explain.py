"""`rmt explain`: a figure per image, one plot of the reach of all heads, and one line for each mistake."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import rmt
from rmt.commands.cli import main
from rmt.heads.model_files import save_model
from rmt.model import save_checkpoint

PREPROCESSING = dict(size=[64, 64], mean=[0.5] * 3, std=[0.25] * 3, interpolation="bicubic", crop_pct=1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A classifier and a segmenter with random weights, and two photographs."""
    folder = tmp_path_factory.mktemp("explain")
    torch.manual_seed(0)
    options = dict(model_name="rmt_test", model_args=dict(num_classes=2), preprocessing=PREPROCESSING)
    save_checkpoint(
        rmt.create_model("rmt_test", num_classes=2), folder / "c.safetensors", classes=["a", "b"], **options
    )
    network = rmt.segmenter("semantic_fpn", "rmt_test", num_classes=2, head_args=dict(channels=8))
    save_model(network, folder / "s.safetensors", classes=["a", "b"], preprocessing=dict(size=[64, 64]))
    (folder / "photos").mkdir()
    for name, size in (("one", (100, 80)), ("two", (64, 64))):
        Image.effect_noise(size, 60).convert("RGB").save(folder / "photos" / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_figure_for_each_image(folder, capsys):
    photos = folder / "photos"
    words = [
        "explain",
        str(folder / "c.safetensors"),
        str(photos / "one.png"),
        "--at",
        "50,40",
        "--target",
        "b",
        "--json",
    ]
    assert main([*words, "--device", "cpu"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["at"] == [50, 40] and values["target"] == "b" and len(values["stages"]) == 4
    with Image.open(values["picture"]) as picture:
        assert picture.width == 1200 and picture.height > 900
        assert len(picture.convert("RGB").getcolors(2**24)) > 1000
    assert values["picture"] == "explanations/one.png"


def test_a_bad_image_is_skipped_and_named(folder, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"x")
    words = ["explain", str(folder / "s.safetensors"), str(folder / "photos/two.png"), str(tmp_path / "bad.png")]
    assert main([*words, "--no-evidence", "--short-side", "64", "--output", "out"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("rmt: ") and "bad.png" in captured.err and captured.err.count("\n") == 1
    assert captured.out.endswith("see out/two.png\n") and Path("out/two.png").exists()


def test_the_reach_of_all_heads(folder, capsys):
    assert main(["explain", str(folder / "c.safetensors"), str(folder / "photos"), "--reach"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("stage 1, 16×16 tokens: heads attend ") and lines[4] == "see explanations/reach.png"
    with Image.open("explanations/reach.png") as picture:
        assert picture.width > picture.height


def test_mistakes_are_one_line(folder, capsys):
    checkpoint, photo = str(folder / "c.safetensors"), str(folder / "photos/one.png")
    mistakes = {
        "write the point as X,Y in pixels of the image": [checkpoint, photo, "--at", "5"],
        "--at 100,5 lies outside the image: x is at most 99, y 79": [checkpoint, photo, "--at", "100,5"],
        "the network knows no class 'c'": [checkpoint, photo, "--target", "c"],
        "leave out --at and --target": [checkpoint, photo, "--reach", "--at", "1,1"],
        "--short-side: not an option for": [checkpoint, photo, "--short-side", "64"],
        "name at least one image": [checkpoint],
        "none.png": [checkpoint, "none.png"],
    }
    for message, words in mistakes.items():
        assert main(["explain", *words, "--no-evidence"]) == 1, message
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1 and error.startswith("rmt: ")
    assert not Path("explanations").exists()
