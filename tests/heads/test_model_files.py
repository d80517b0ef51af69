"""Model files of detectors and segmenters, and backbones from anyone's files."""

import json
import re

import pytest
import safetensors.torch
import torch
from helpers.detectors import HEADS, scene, tiny
from helpers.networks import TINY, official_weights

import rmt
from rmt.heads import load_model, save_model
from rmt.heads.pyramid import Pyramid
from rmt.model import RMT, read_metadata


def shaken(model):
    """Weights unlike any fresh ones."""
    generator = torch.Generator().manual_seed(1)
    for p in model.parameters():
        p.data += 0.01 * torch.randn(p.shape, generator=generator)
    return model.eval()


@pytest.mark.parametrize("head", HEADS)
def test_a_detector_comes_back_from_its_file(head, tmp_path):
    model = shaken(tiny(head, freeze_bn=True, nms_threshold=0.4, score_threshold=0.0, drop_path_rate=0.2))
    save_model(model, tmp_path / "d.safetensors", classes=["a", "b", "c"], metrics={"box AP": 1.0})
    again, metadata = load_model(tmp_path / "d.safetensors")
    assert (metadata["task"], metadata["head"], metadata["model"]) == ("detect", head, "rmt_pico")
    assert metadata["classes"] == ["a", "b", "c"] and metadata["metrics"] == {"box AP": 1.0}
    assert again.num_classes == 3 and again.pyramid.backbone.batchnorm_frozen and not again.training
    assert again.head_args["nms_threshold"] == 0.4 and metadata["model_args"]["drop_path_rate"] == 0.2
    image, _ = scene()
    with torch.no_grad():
        for key, value in model([image])[0].items():
            assert torch.equal(again([image])[0][key], value)
    save_model(again, tmp_path / "e.safetensors")  # and once more
    assert load_model(tmp_path / "e.safetensors")[0].options == again.options


def test_a_segmenter_comes_back_from_its_file(tmp_path):
    model = shaken(rmt.segmenter("upernet", "rmt_pico", num_classes=4, head_args=dict(channels=16, aux_channels=8)))
    save_model(model, tmp_path / "s.safetensors")
    again, metadata = load_model(tmp_path / "s.safetensors")
    assert (metadata["task"], metadata["head"]) == ("segment", "upernet")
    x = torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "d.safetensors"
    rmt.save_checkpoint(rmt.create_model("rmt_pico"), path)
    with pytest.raises(rmt.RMTError, match="a model for the task 'classify'; this call loads detectors"):
        load_model(path)
    with pytest.raises(rmt.RMTError, match="the backbone has no name"):
        save_model(rmt.detector("retinanet", RMT(**TINY), fpn_channels=8), path)
    save_model(tiny("retinanet"), path)
    tensors, metadata = safetensors.torch.load_file(path), read_metadata(path)
    for change, match in (
        (dict(convs=10**9), "convs=1000000000 is out of bounds"),
        (dict(fpn_channels=2**19), "of another shape"),
        (dict(num_classes=4), "of another shape"),
        (dict(unheard_of=1), "has no option 'unheard_of'"),
        (dict(anchor_ratios=None), "cannot be built"),
    ):
        changed = metadata | dict(head_args=metadata["head_args"] | change)
        safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata={"rmt": json.dumps(changed)})
        with pytest.raises(rmt.RMTError, match=match):
            load_model(tmp_path / "x.safetensors")


def authors_detector() -> dict[str, torch.Tensor]:
    """A synthetic file as the authors' detection code writes it: the authors' names, a norm per stage, heads on top."""
    weights = official_weights("tiny")
    state = {f"backbone.{k}": v for k, v in weights.items() if k.startswith(("patch_embed.", "layers."))}
    for i, c in enumerate(TINY["dims"]):
        state[f"backbone.extra_norms.{i}.weight"] = torch.full((c,), i + 2.0)
        state[f"backbone.extra_norms.{i}.bias"] = torch.full((c,), i + 0.5)
    return state | {
        "neck.lateral_convs.0.conv.weight": torch.zeros(1),
        "roi_head.bbox_head.fc_cls.bias": torch.zeros(1),
    }


@pytest.mark.parametrize("head", HEADS)
def test_the_authors_detection_files(head, tmp_path):
    torch.save({"meta": {"epoch": 12}, "state_dict": authors_detector()}, tmp_path / "authors.pth")
    model = rmt.detector(head, RMT(**TINY), fpn_channels=8)
    assert model.load_backbone(tmp_path / "authors.pth") == []
    first = 1 if head == "retinanet" else 0
    assert [n.weight[0].item() for n in model.pyramid.norms] == [2.0, 3, 4, 5][first:]
    assert [n.bias[-1].item() for n in model.pyramid.norms] == [0.5, 1.5, 2.5, 3.5][first:]
    given = official_weights("tiny")["layers.3.blocks.0.retention.out_proj.weight"]
    assert torch.equal(model.pyramid.backbone.stages[3].blocks[0].attn.proj.weight, given)


def test_a_classifier_becomes_a_backbone(tmp_path):
    torch.manual_seed(5)
    classifier = rmt.create_model("rmt_pico", num_classes=7)
    (tmp_path / "run").mkdir()
    rmt.save_checkpoint(classifier, tmp_path / "run" / "best.safetensors")
    model = tiny("mask_rcnn")
    assert model.load_backbone(tmp_path / "run") == [f"norms.{i}" for i in range(4)]
    own = model.pyramid.backbone.state_dict()
    assert own and all(torch.equal(value, classifier.state_dict()[key]) for key, value in own.items())
    with pytest.raises(rmt.RMTError, match="does not fit"):
        rmt.detector("mask_rcnn", RMT(**TINY), fpn_channels=8).load_backbone(tmp_path / "run")


def test_backbone_and_norms_of_our_own_detectors_and_segmenters(tmp_path):
    detector = shaken(tiny("retinanet"))
    save_model(detector, tmp_path / "d.safetensors")
    model = tiny("retinanet", num_classes=9)
    assert model.load_backbone(tmp_path / "d.safetensors") == []
    for key, value in detector.pyramid.state_dict().items():
        assert torch.equal(model.pyramid.state_dict()[key], value), key
    segmenter = shaken(rmt.segmenter("upernet", "rmt_pico", num_classes=4, head_args=dict(channels=16)))
    save_model(segmenter, tmp_path / "s.safetensors")
    pyramid = Pyramid(rmt.create_model("rmt_pico"), first=1)
    assert pyramid.load_backbone(tmp_path / "s.safetensors") == []
    for i in range(3):
        assert torch.equal(pyramid.norms[i].weight, segmenter.pyramid.norms[i + 1].weight)
    with pytest.raises(rmt.RMTError, match=re.escape("extra_norms.0.weight")):  # RetinaNet has no norm of stage 1
        Pyramid(rmt.create_model("rmt_pico")).load_official(tmp_path / "d.safetensors")
