"""`rmt convert` and `rmt info`, as typed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.networks import PARITY, official, official_weights
from helpers.parity_fill import image

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
    assert "rmt_tiny, 14,334,216 parameters, 1,000 classes" in capsys.readouterr().out
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


def test_info_shows_the_metrics_of_a_file(tmp_path, capsys):
    metrics = {"epoch": 3, "weights": "ema", "val": {"top1": 87.123456, "images": 500}}
    rmt.save_checkpoint(rmt.create_model("rmt_test"), tmp_path / "m.safetensors", metrics=metrics)
    assert main(["info", str(tmp_path / "m.safetensors")]) == 0
    shown = capsys.readouterr().out
    assert shown.endswith("metrics: epoch 3, weights ema\n  val: top1 87.12, images 500\n")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["convert", "absent.pth", "x.safetensors"], 1, "no checkpoint at absent.pth"),
        (["convert", "{file}", "x.pth"], 1, "must end in .safetensors"),
        (["convert", "{file}", "{folder}/no/x.safetensors"], 1, "cannot write"),
        (["convert", "{file}", "x.safetensors", "--model", "rmt_small"], 1, "does not fit the network"),
        (["convert", "{file}", "x.safetensors", "--model", "nope"], 1, "no network named 'nope'"),
        (["convert", str(PARITY / "tiny.json"), "x.safetensors"], 1, "neither safetensors nor what torch.save writes"),
        (["info", "nothing"], 1, "(`rmt recipes`): choose one of rmt_pico"),
        (["info", "rmt_tny"], 1, "(`rmt recipes`): did you mean rmt_tiny or"),
        (["info", "resnt50"], 1, "(`rmt recipes`): did you mean resnet50 or"),
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


def relpos(heads, ranges):
    """The buffers of the authors' files: ln γ of each head, and angles."""
    buffers = {}
    for i, (n, (low, high)) in enumerate(zip(heads, ranges, strict=True)):
        exponents = low + (high - low) * torch.arange(n, dtype=torch.float) / n
        buffers[f"layers.{i}.Relpos.decay"] = torch.log(1 - 2**-exponents)
        buffers[f"layers.{i}.Relpos.angle"] = torch.ones(4)
    return buffers


def test_a_network_of_no_name_is_rebuilt_as_what_it_is(tmp_path, capsys):
    """From shapes and buffers, for both releases and a token head; without buffers its heads have to be given."""
    source, out = tmp_path / "odd.pth", tmp_path / "x.safetensors"
    for case in ("tiny", "tiny_token_label", "first_release_tiny"):
        state = official_weights(case)
        torch.save(state, source)
        assert main(["convert", str(source), str(out)]) == 1
        error = capsys.readouterr().err
        assert "fits none of rmt_pico" in error and error.endswith("--model\n") and error.count("\n") == 1
        torch.save({"model": state | relpos((2, 2, 4, 8), ((2, 6), (2, 6), (2, 8), (2, 8)))}, source)
        assert main(["convert", str(source), str(out)]) == 0
        text = capsys.readouterr().out
        assert "dims=(16, 32, 64, 128)" in text
        assert text.endswith("decomposed=(True, True, True, False)\n") and "num_heads" not in text.splitlines()[1]
        model, _ = load_model(out)
        answers = np.load(PARITY / f"{case}.npz")
        expected = torch.from_numpy(answers["1x96x64/logits"])
        with torch.no_grad():
            logits = model(torch.from_numpy(image(1, 96, 64)))
        assert (logits - expected).norm() / expected.norm() < 5e-6


def test_the_first_release_is_recognised(tmp_path, capsys):
    source, out = tmp_path / "RMT-T.pth", tmp_path / "x.safetensors"
    state = official_weights("first_release_rmt_t")
    torch.save({"model": state}, source)
    assert main(["convert", str(source), str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "rmt_tiny with ffn_conv=False" in lines[0] and "13,192,200 parameters, 1,000 classes" in lines[0]
    assert lines[1] == (
        "not in the file, taken from rmt_tiny: num_heads=(4, 4, 8, 16), "
        "decay_ranges=((2, 6), (2, 6), (2, 8), (2, 8)), decomposed=(True, True, False, False)"
    )
    assert load_model(out)[0].phases == "none"
    torch.save({f"backbone.{k}": v for k, v in state.items() if not k.startswith(("norm", "head"))}, source)
    assert main(["convert", str(source), str(out)]) == 0  # a detector's
    assert "phases=none" in capsys.readouterr().out
    assert load_model(out)[0].phases == "none"


def test_a_variant_of_rmt_t(tmp_path, capsys):
    """More blocks, other ratios, no LCE, layer scales and another decay than the named network."""
    changes = dict(depths=(1, 1, 2, 1), mlp_ratios=(2.0, 3.0, 3.0, 2.5), layer_scales=(None, None, None, 1e-6))
    network = rmt.create_model("rmt_tiny", **changes, decay_ranges=((3, 5),) * 4, num_classes=3, in_chans=1).eval()
    torch.save(official(network) | relpos((4, 4, 8, 16), ((3, 5),) * 4), tmp_path / "odd.pth")
    assert main(["convert", str(tmp_path / "odd.pth"), str(tmp_path / "x.safetensors"), "--model", "rmt_tiny"]) == 0
    out = capsys.readouterr().out
    assert "depths=(1, 1, 2, 1)" in out and "decay_ranges=((3.0, 5.0)" in out
    again, metadata = load_model(tmp_path / "x.safetensors")
    assert metadata["model_args"].keys() == changes.keys() | {"decay_ranges", "num_classes", "in_chans", "global_pool"}
    x = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert torch.equal(again(x), network(x))


def test_buffers_that_are_no_decay_tell_the_heads_alone(tmp_path, capsys):
    state = official_weights("rmt_t") | {f"layers.{i}.Relpos.decay": torch.ones(n) for i, n in enumerate((4, 4, 8, 16))}
    torch.save(state, tmp_path / "odd.pth")
    assert main(["convert", str(tmp_path / "odd.pth"), str(tmp_path / "x.safetensors")]) == 0
    assert "taken from rmt_tiny: decay_ranges=((2, 6)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers.2.blocks.999999.gamma_1", torch.ones(1), "does not fit the network: .*blocks.999999.ls1.gamma"),
        ("layers.0.blocks.0.ffn.fc1.weight", torch.ones(3), "fits none of"),
        ("layers.0.Relpos.decay", torch.ones(3), "cannot be built"),
        ("layers.4.blocks.0.ffn.fc1.weight", torch.ones(3, 3), "fits none of"),
    ],
    ids=str,
)
def test_odd_tensors_are_refused_in_one_line(tmp_path, capsys, name, value, message):
    torch.save(official_weights("rmt_t") | {name: value}, tmp_path / "odd.pth")
    assert main(["convert", str(tmp_path / "odd.pth"), str(tmp_path / "x.safetensors")]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(1, 1).expand(2**19, 1024), "larger than its data"),  # would get the memory that its shape says
        (torch.zeros(1000, 512).to_sparse(), "head.weight in it is not an array"),
        (torch.zeros(1000, 512, device="meta"), "head.weight in it is not an array"),
    ],
    ids=["expanded", "sparse", "meta"],
)
def test_a_tensor_without_all_its_data_is_refused(tmp_path, capsys, value, message):
    torch.save(official_weights("rmt_t") | {"head.weight": value}, tmp_path / "odd.pth")
    assert main(["convert", str(tmp_path / "odd.pth"), str(tmp_path / "x.safetensors")]) == 1
    assert message in capsys.readouterr().err


def test_info_alone_lists_the_networks(capsys):
    assert main(["info"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert set(rmt.list_models()) < set(lines)
    assert lines["rmt_small"] == ["26,967,240", "224²", "84.1", "%"]
    assert lines["rmt_pico"][1:] == ["32²", "–"]
    cards = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for name, top1 in PAPER_TOP1.items():  # in the page's table, forms with and without tokens in one row
        (row,) = [row for row in cards.splitlines() if row.startswith("|") and f"`{name}`" in row]
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


def test_info_of_a_recipe_counts_its_detector_or_segmenter(capsys):
    assert main(["info", "coco-retinanet-tiny-1x"]) == 0
    text = capsys.readouterr().out
    assert "with its retinanet head: 23,0" in text and "at 800×1280" in text
    assert "the paper: 23 M parameters, 199 G multiply-adds at 800×1280" in text
    assert main(["info", "ade20k-semantic-fpn-tiny", "--image-size", "64", "96", "--json"]) == 0
    about = json.loads(capsys.readouterr().out)
    assert about["image_size"] == [64, 96] and about["stages"][0]["grid"] == [16, 24]
    assert about["parameters_with_head"] > about["parameters"] and about["macs_with_head"] > about["macs"]
    assert about["published"]["flops"] == 33.7
    assert main(["info", "ablation-window"]) == 0
    assert "window        none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["finetune"], "finetune takes the network of its --weights"),
        (["rmt_pico", "--image-size", "64", "64", "3"], "give one number, or height and width"),
        (["rmt_pico", "--image-size", "64", "16"], "at least 32 pixels a side"),
        (["nothing"], "nor a recipe (`rmt recipes`)"),
    ],
    ids=str,
)
def test_what_info_cannot_describe_is_one_line(capsys, arguments, message):
    assert main(["info", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
