"""The weights in the package: what their file says, how they are named, and what they compute."""

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

import rmt
from rmt.model import load_model, read_metadata, resolve_checkpoint
from rmt.model.shipped import DEFAULT, SHIPPED, default_output, shipped_weights

ROOT = Path(__file__).parents[2]
FILE = resolve_checkpoint("rmt_micro")


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    return safetensors.torch.load_file(FILE)


def test_the_file(state):
    assert FILE.stat().st_size <= 3e6
    assert {value.dtype for name, value in state.items() if "num_batches" not in name} == {torch.float16}
    assert all(value.isfinite().all() for value in state.values())
    metadata, cfg = read_metadata(FILE), timm.get_pretrained_cfg("rmt_micro.cifar10")
    assert metadata["license"] == cfg.license == "apache-2.0"
    assert tuple(metadata["classes"]) == cfg.label_names and len(metadata["classes"]) == cfg.num_classes == 10
    expected = dict(size=list(cfg.input_size[1:]), mean=list(cfg.mean), std=list(cfg.std))
    assert metadata["preprocessing"] == expected | dict(interpolation=cfg.interpolation, crop_pct=cfg.crop_pct)
    card = (ROOT / metadata["card"]).read_text(encoding="utf-8")
    accuracy = f"{metadata['metrics']['test']['top1']:.2f} %"
    assert accuracy in card and accuracy in cfg.description and metadata["training"]["command"] in card


def test_the_card_has_the_figures_of_the_run():
    run = json.loads((ROOT / "benchmarks" / "gpu" / "cifar10.json").read_text(encoding="utf-8"))
    card = (ROOT / "docs" / "rmt_micro.md").read_text(encoding="utf-8")
    shown = f"{run['epochs']:.1f} epochs in {run['seconds']:.1f} seconds"
    assert shown in card and f"{100 * run['test']['last']:.2f} %" in card
    assert f"{100 * run['held_out'][-1]['last']:.2f} %" in card
    network = rmt.create_model("rmt_micro", num_classes=run["network"]["num_classes"], device="meta")
    assert sum(p.numel() for p in network.parameters()) == run["parameters"]


def test_the_wheel_contains_it():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["rmt"]
    package = Path(str(files("rmt")))
    assert FILE in {file for pattern in patterns for file in package.glob(pattern)}


@pytest.mark.parametrize("create", [timm.create_model, rmt.create_model])
@pytest.mark.parametrize("name", ["rmt_micro", "rmt_micro.cifar10"])
def test_pretrained_gives_the_weights_of_the_file(create, name, state):
    network = create(name, pretrained=True)
    config = timm.data.resolve_model_data_config(network)
    assert config["input_size"] == (3, 64, 64) and config["crop_pct"] == 1.0  # what it was trained on
    found = network.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], value.to(found[key].dtype)) for key, value in state.items())
    assert found["stem.0.weight"].dtype == torch.float32


def test_without_pretrained_nothing_is_loaded(state):
    network = timm.create_model("rmt_micro")
    assert network.num_classes == 1000
    assert not torch.equal(network.stem[0].weight, state["stem.0.weight"].float())


def test_a_new_head_on_the_trained_backbone(state):
    network = timm.create_model("rmt_micro", pretrained=True, num_classes=3)
    assert network.head.fc.weight.shape == (3, 256)
    assert torch.equal(network.head.proj.weight, state["head.proj.weight"].float())


def test_all_ways_compute_the_same(state):
    image = torch.linspace(-2, 2, 3 * 64 * 64).view(1, 3, 64, 64)
    logits = timm.create_model("rmt_micro", pretrained=True).eval()(image)
    assert torch.equal(load_model("rmt_micro")[0](image), logits)
    network = rmt.create_model("rmt_micro", num_classes=10).eval()
    assert rmt.load_checkpoint(network, "rmt_micro.cifar10") == []
    assert torch.equal(network(image), logits)


def test_timm_lists_them():
    listed = timm.list_models("rmt_*", pretrained=True)
    assert listed == [f"{name}.{tag}" for name, tag in SHIPPED.items()]
    assert DEFAULT in SHIPPED and timm.is_model_pretrained("rmt_micro")


def test_a_name_is_taken_wherever_a_checkpoint_is(tmp_path, monkeypatch):
    assert shipped_weights("rmt_micro") == shipped_weights("rmt_micro.cifar10") == FILE
    assert shipped_weights("rmt_micro.other") is None and shipped_weights("rmt_small") is None
    monkeypatch.chdir(tmp_path)
    assert default_output(FILE, ".onnx") == Path("rmt_micro.cifar10.onnx")
    assert default_output(tmp_path / "best.safetensors", ".onnx") == tmp_path / "best.onnx"
    (tmp_path / "rmt_micro").write_bytes(b"a file of the user")
    assert resolve_checkpoint("rmt_micro") == Path("rmt_micro")


@pytest.mark.parametrize("name", ["rmt_small", "resnet50"])
def test_a_network_without_weights_is_refused(name):
    with pytest.raises(rmt.RMTError, match=f"^{name} is a network without weights.* a network with weights .rmt_micro"):
        resolve_checkpoint(name)
    assert resolve_checkpoint(f"{name}.safetensors") == Path(f"{name}.safetensors")  # a file that does not exist


def test_a_name_with_an_unknown_tag_is_one_line():
    with pytest.raises(rmt.RMTError, match="no network named 'rmt_micro.other'"):
        rmt.create_model("rmt_micro.other", pretrained=True)


def test_the_readme_names_every_network_with_weights():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(re.search(rf"`{name}`.*docs/{name}\.md", readme) for name in SHIPPED)


def test_the_metadata_are_json_that_any_reader_takes():
    with safetensors.safe_open(FILE, "pt") as file:
        metadata = json.loads(file.metadata()["rmt"])
    assert metadata["model"] == "rmt_micro" and metadata["format"] == 1
