"""`rmt convert` and `rmt info`, as typed."""

import json
from pathlib import Path

import pytest
import torch
from helpers.networks import PARITY, official_weights

import rmt
from rmt.commands.cli import main
from rmt.heads import save_model
from rmt.model import load_model, read_metadata
from rmt.model.variants import PAPER_TOP1


@pytest.fixture
def tiny_file(tmp_path):
    """The authors' RMT-T as they wrap it."""
    path = tmp_path / "RMT-T.pth"
    torch.save({"model": official_weights("rmt_t"), "epoch": 300}, path)
    return path


def test_convert_finds_the_network_and_keeps_every_value(tiny_file, tmp_path, capsys):
    out = tmp_path / "rmt_tiny.safetensors"
    assert main(["convert", str(tiny_file), str(out)]) == 0
    assert "rmt_tiny, 14,334,216 parameters, 1000 classes" in capsys.readouterr().out
    model, metadata = load_model(out)
    assert (metadata["model"], metadata["task"], metadata["preprocessing"]["crop_pct"]) == (
        "rmt_tiny",
        "classify",
        0.875,
    )
    given = official_weights("rmt_t")
    assert torch.equal(model.head.fc.weight, given["head.weight"])
    assert torch.equal(model.stages[3].blocks[1].mlp.dwconv.weight, given["layers.3.blocks.1.ffn.dwconv.conv.weight"])
    assert main(["info", str(out)]) == 0
    assert "14,334,216 parameters" in capsys.readouterr().out


def test_convert_takes_a_detectors_backbone(tmp_path, capsys):
    state = {f"backbone.{k}": v for k, v in official_weights("rmt_t").items() if k.startswith(("patch", "layers"))}
    torch.save({"state_dict": state}, tmp_path / "detector.pth")
    assert main(["convert", str(tmp_path / "detector.pth"), str(tmp_path / "out.safetensors")]) == 0
    assert "no classifier" in capsys.readouterr().out
    assert read_metadata(tmp_path / "out.safetensors")["model_args"]["num_classes"] == 0
    assert main(["info", str(tmp_path / "out.safetensors")]) == 0


def test_info_of_a_detector_and_a_segmenter(tmp_path, capsys):
    for model, head in (
        (rmt.detector("retinanet", "rmt_pico", num_classes=3, fpn_channels=8), "retinanet"),
        (rmt.segmenter("upernet", "rmt_pico", num_classes=3, head_args=dict(channels=8)), "upernet"),
    ):
        save_model(model, tmp_path / "m.safetensors", classes=["a", "b", "c"])
        assert main(["info", str(tmp_path / "m.safetensors")]) == 0
        out = capsys.readouterr().out
        assert f"with its {head} head: {sum(p.numel() for p in model.parameters()):,} parameters\n" in out
        assert "rmt_pico: " in out and "at 32×32" in out and "classes: a, b, c" in out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert", "absent.pth", "x.safetensors"], 1, "no checkpoint at absent.pth"),
        (["convert", "{file}", "x.pth"], 1, "must end in .safetensors"),
        (["convert", "{file}", "{folder}/no/x.safetensors"], 1, "cannot write"),
        (["convert", "{file}", "x.safetensors", "--model", "rmt_small"], 1, "does not fit the network"),
        (["convert", "{file}", "x.safetensors", "--model", "nope"], 1, "no network named 'nope'"),
        (["convert", str(PARITY / "tiny.json"), "x.safetensors"], 1, "not a readable checkpoint"),
        (["info", "nothing"], 1, "neither a file nor one of rmt_pico"),
        (["info", "{file}"], 1, "not a safetensors file; convert the authors' .pth files with rmt convert"),
        (["info", "rmt_tiny", "--image-size", "16"], 1, "--image-size 16"),
        (["info", "rmt_tiny", "--image-siez", "64"], 2, "image-siez"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else None,
)
def test_mistakes_are_one_line(tiny_file, tmp_path, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    try:
        got = main([a.format(file=tiny_file, folder=tmp_path) for a in arguments])
    except SystemExit as stop:
        got = stop.code
    captured = capsys.readouterr()
    assert got == code
    assert message in " ".join((captured.err + captured.out).split())
    if code == 1:
        assert captured.err.count("\n") == 1
    assert not (tmp_path / "x.safetensors").exists()


def test_another_network_of_no_name(tmp_path, capsys):
    torch.save(official_weights("tiny"), tmp_path / "odd.pth")
    assert main(["convert", str(tmp_path / "odd.pth"), str(tmp_path / "x.safetensors")]) == 1
    assert "fits none of rmt_pico" in capsys.readouterr().err


def test_info_alone_lists_the_networks(capsys):
    assert main(["info"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert set(rmt.list_models()) < set(lines)
    assert lines["rmt_small"] == ["26,967,240", "224²", "84.1", "%"]
    assert lines["rmt_pico"][1:] == ["32²", "–"]
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name, top1 in PAPER_TOP1.items():  # in the README's table, forms with and without tokens in one row
        (row,) = [row for row in readme.splitlines() if row.startswith("|") and f"`{name}`" in row]
        assert f"{top1:.1f}" in row.split("|")[-2]
    assert main(["info", "--json"]) == 0
    assert [about["model"] for about in json.loads(capsys.readouterr().out)] == rmt.list_models()
    assert main(["info", "--image-size", "64"]) == 1


def test_info_as_json(capsys):
    assert main(["info", "rmt_small", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["parameters"] == 26_967_240
    assert about["macs"] == pytest.approx(4.8e9, rel=0.03)
    assert [stage["grid"] for stage in about["stages"]] == [[56, 56], [28, 28], [14, 14], [7, 7]]
    assert about["stages"][0]["decay"] == [0.75, 0.875, 0.9375, 0.96875]
    assert [stage["decomposed"] for stage in about["stages"]] == [True, True, True, False]


def test_info_at_another_size(capsys):
    main(["info", "rmt_pico", "--image-size", "70"])
    assert "at 70×70" in capsys.readouterr().out
