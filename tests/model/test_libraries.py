"""timm registration is enough for the libraries that build on timm. Run with `make test-optional`."""

import pytest
import torch
from helpers.networks import official, pico

from rmt.errors import RMTError

pytestmark = pytest.mark.optional


@pytest.fixture
def overlay(tmp_path):
    torch.save({"model": official(pico())}, tmp_path / "m.pth")
    return dict(file=str(tmp_path / "m.pth"))


def test_segmentation_models_pytorch(overlay):
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = smp.Unet("tu-rmt_pico", encoder_weights=None, classes=3).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 96)).shape == (1, 3, 64, 96)
    encoder = smp.encoders.TimmUniversalEncoder("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay)
    state = encoder.model.state_dict()
    weight = next(value for key, value in state.items() if key.endswith("stem.0.weight"))
    assert torch.equal(weight, pico().stem[0].weight)


def test_deeplab_of_segmentation_models_pytorch_is_refused():
    smp = pytest.importorskip("segmentation_models_pytorch")
    with pytest.raises(RMTError, match="in place of DeepLabV3"):
        smp.DeepLabV3Plus("tu-rmt_pico", encoder_weights=None)


def test_transformers(overlay):
    transformers = pytest.importorskip("transformers")
    config = transformers.TimmBackboneConfig(backbone="rmt_pico", out_indices=[1, 2, 3])
    backbone = transformers.TimmBackbone(config).eval()
    assert backbone.channels == [64, 128, 192]
    with torch.no_grad():
        maps = backbone(torch.randn(1, 3, 64, 64)).feature_maps
    assert [m.shape[1:] for m in maps] == [(64, 8, 8), (128, 4, 4), (192, 2, 2)]
    loaded = transformers.TimmBackbone(config, pretrained=True, pretrained_cfg_overlay=overlay).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = pico().eval().forward_intermediates(x, indices=[1, 2, 3], intermediates_only=True)
        for got, want in zip(loaded(x).feature_maps, expected, strict=True):
            torch.testing.assert_close(got, want)


def test_upernet_of_transformers():
    transformers = pytest.importorskip("transformers")
    backbone = transformers.TimmBackboneConfig(backbone="rmt_pico", out_indices=[0, 1, 2, 3])
    config = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=4, hidden_size=32, use_auxiliary_head=True, auxiliary_in_channels=128
    )
    model = transformers.UperNetForSemanticSegmentation(config).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 64, 64)).logits.shape == (1, 4, 64, 64)
