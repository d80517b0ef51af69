"""Folders of the Hugging Face hub: timm (and transformers) load from them what the model file has."""

import json

import pytest
import timm
import torch
from helpers.networks import pico

import rmt
from rmt.errors import RMTError
from rmt.export.hub import write_hub_folder
from rmt.heads import save_model

IMAGE = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(1))
CHANGED = dict(depths=(1, 2, 1, 1), phases="axial", num_classes=5)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    preprocessing = dict(size=[40, 40], mean=[0.4] * 3, std=[0.3] * 3, interpolation="bilinear", crop_pct=0.9)
    metrics = {"epoch": 3, "test": {"top1": 91.25}}
    recipe = {"data": "/home/a-person/photos", "weights": "C:\\Users\\a-person\\old.pth", "epochs": 3}
    rmt.save_checkpoint(
        pico(**CHANGED), path, classes="abcde", preprocessing=preprocessing, metrics=metrics, recipe=recipe
    )
    return path


@pytest.fixture(scope="module")
def folder(model_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "out"
    write_hub_folder(model_file, folder, "apache-2.0", "CC BY 4.0")
    return folder


def output(model):
    with torch.no_grad():
        return model.eval()(IMAGE)


def test_timm_loads_the_same_network_with_its_preprocessing(folder):
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(output(model), output(pico(**CHANGED)))
    data = timm.data.resolve_model_data_config(model)
    assert list(data["input_size"]) == [3, 40, 40] and list(data["mean"]) == [0.4] * 3 and data["crop_pct"] == 0.9
    assert model.pretrained_cfg["label_names"] == list("abcde")
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True).eval()
    with torch.no_grad():
        assert [m.shape[1] for m in features(IMAGE)] == [32, 64, 128, 192]
    other = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=2)
    assert other.num_classes == 2 and torch.equal(other.stem[0].weight, model.stem[0].weight)


@pytest.mark.parametrize("name", ["rmt_test", "resnet18"])
def test_a_repository_of_the_hub_loads_as_for_timm_s_networks(name, tmp_path, monkeypatch):
    """`hf-hub:USER/NAME`, whose files come from a folder here in place of the network."""
    model = timm.create_model(name, num_classes=5)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)

    def download(repo_id, filename, **_):
        assert repo_id == "user/photos"
        return str(tmp_path / filename)

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    assert torch.equal(output(timm.create_model("hf-hub:user/photos", pretrained=True)), output(model))


def test_timm_s_own_folder_is_taken_as_well(tmp_path):
    model = pico(num_classes=5)
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    assert torch.equal(output(timm.create_model(f"local-dir:{tmp_path}", pretrained=True)), output(model))


def test_the_folder_has_a_card_and_a_file_that_rmt_loads(folder, model_file):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    card = (folder / "README.md").read_text()
    assert (
        "license: apache-2.0" in card
        and "| test top1 | 91.25 |" in card
        and "Trained on `photos`. Licence of the training images: CC BY 4.0." in card
    )
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["license"] == "apache-2.0"
    copy, original = (rmt.load(path, device="cpu").metadata for path in (folder / "model.safetensors", model_file))
    assert copy | {"recipe": {}} == original | {"recipe": {}}


def test_nothing_is_published_without_a_licence_or_over_other_files(folder, model_file, tmp_path):
    with pytest.raises(RMTError, match="--license is missing"):
        write_hub_folder(model_file, tmp_path / "out", "")
    with pytest.raises(RMTError, match="is not empty"):
        write_hub_folder(model_file, folder, "mit")
    segmenter = rmt.segmenter("semantic_fpn", "rmt_test", 2, head_args=dict(channels=8, fpn_channels=8))
    save_model(segmenter, tmp_path / "s.safetensors")
    with pytest.raises(RMTError, match="is for classifiers"):
        write_hub_folder(tmp_path / "s.safetensors", tmp_path / "out", "mit")
    assert [path.name for path in tmp_path.iterdir()] == ["s.safetensors"]


def test_without_a_file_nothing_is_downloaded():
    with pytest.raises(RMTError, match="no weights of rmt_pico can be downloaded"):
        timm.create_model("rmt_pico", pretrained=True)


@pytest.mark.optional
def test_transformers_load_the_folder(folder):
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(IMAGE).logits, output(pico(**CHANGED)))
    assert model.config.id2label == dict(enumerate("abcde"))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    assert processor(torch.zeros(3, 50, 60, dtype=torch.uint8).numpy().transpose(1, 2, 0)).pixel_values.shape[-1] == 40


def test_no_path_is_published(folder):
    text = "".join((folder / name).read_text() for name in ("README.md", "config.json"))
    content = (folder / "model.safetensors").read_bytes()
    assert "a-person" not in text and b"a-person" not in content
    recipe = rmt.model.read_metadata(folder / "model.safetensors")["recipe"]
    assert recipe == {"data": "photos", "weights": "old.pth", "epochs": 3}
