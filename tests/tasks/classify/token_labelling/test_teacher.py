"""Teachers: any timm classifier, place by place."""

import math

import pytest
import timm
import torch

import rmt
from rmt.errors import RMTError
from rmt.tasks.classify.token_labelling.teacher import dense_logits, load_teacher, relative_top

# One of each kind: map NCHW, map NHWC, tokens with a class token, tokens pooled, attention pooling, two class tokens.
SMALL = {
    "resnet10t": {},
    "convnext_atto": {},
    "mobilenetv3_small_050": {},
    "efficientnet_lite0": {},
    "rmt_pico_tl": {},
    "swin_tiny_patch4_window7_224": dict(
        depths=(1, 1, 1, 1), embed_dim=24, num_heads=(1, 2, 4, 8), img_size=64, window_size=2
    ),
    "vit_tiny_patch16_224": dict(depth=1, img_size=64),
    "vit_base_patch16_siglip_224": dict(depth=1, img_size=64, embed_dim=48, num_heads=2),
    "vit_small_patch16_36x1_224": dict(depth=1, img_size=64, global_pool="avg"),
    "deit_tiny_distilled_patch16_224": dict(depth=1, img_size=64),
}


@pytest.mark.parametrize("name", SMALL)
def test_each_place_is_classified_by_the_network_s_own_head(name):
    """Where a network averages places before a linear head, the mean of the places' logits is its answer."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=6, **SMALL[name]).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        dense = dense_logits(model, images)
        whole = model(images)
    stride = 16 if "vit" in name or "deit" in name else 32
    assert dense.shape == (2, 64 // stride, 64 // stride, 6)
    if name in ("resnet10t", "efficientnet_lite0", "swin_tiny_patch4_window7_224"):
        torch.testing.assert_close(dense.mean((1, 2)), whole, atol=1e-4, rtol=1e-4)
    with torch.no_grad():  # a place's answer is that of a map or sequence of nothing but itself
        features = model.forward_features(images)
        if features.ndim == 4 and getattr(model, "output_fmt", "NCHW") == "NCHW":
            only = features[:, :, :1, 1:2].expand_as(features)
        elif features.ndim == 4:
            only = features[:, :1, 1:2].expand_as(features)
        else:
            prefix = model.num_prefix_tokens
            only = features[:, prefix + 1 : prefix + 2].expand_as(features)
        torch.testing.assert_close(dense[:, 0, 1], model.forward_head(only.contiguous()), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("level", [-12.0, 0.0, 30.0])
def test_the_level_of_the_logits_is_removed(level):
    """With zeros for the other classes, the softmax gives the stored ones the teacher's own probabilities."""
    torch.manual_seed(0)
    logits = 5 * torch.randn(2, 3, 4, 50) + level
    scores, classes = relative_top(logits, 5)
    for b, i, j in ((0, 0, 0), (1, 2, 3), (0, 1, 2)):
        own = logits[b, i, j].tolist()
        order = sorted(range(50), key=lambda k: -own[k])
        assert classes[b, i, j].tolist() == order[:5]
        mean = sum(math.exp(own[k]) for k in order[5:]) / 45
        assert scores[b, i, j].tolist() == pytest.approx([own[k] - math.log(mean) for k in order[:5]], abs=1e-4)
        dense = torch.zeros(50)
        dense[order[:5]] = scores[b, i, j]
        expected = logits[b, i, j].softmax(0)[order[:5]]
        torch.testing.assert_close(dense.softmax(0)[order[:5]], expected, atol=1e-5, rtol=1e-4)


def test_all_classes_can_be_stored():
    logits = torch.randn(1, 2, 2, 3) - 9
    scores, classes = relative_top(logits, 5)
    assert scores.shape == (1, 2, 2, 3)
    torch.testing.assert_close(scores.softmax(3), logits.softmax(3).gather(3, classes))
    assert (scores.exp().mean(3) - 1).abs().max() < 1e-5


def test_a_teacher_that_is_not_square():
    model = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=(64, 32), num_classes=3).eval()
    with torch.no_grad():
        assert dense_logits(model, torch.randn(1, 3, 64, 32)).shape == (1, 4, 2, 3)


def test_weights_of_another_file(tmp_path):
    theirs = timm.create_model("resnet10t", num_classes=4)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "t.pth"
    )
    teacher = load_teacher("resnet10t", str(tmp_path / "t.pth"))
    assert teacher.model.num_classes == 4 and not teacher.model.training
    assert torch.equal(teacher.model.state_dict()["fc.weight"], theirs.state_dict()["fc.weight"])
    assert teacher.size == (176, 176) and teacher.weights.startswith("t.pth sha256:")


def test_a_file_of_ours_needs_no_name(tmp_path):
    ours = rmt.create_model("rmt_pico", num_classes=3)
    rmt.save_checkpoint(ours, tmp_path / "t.safetensors", classes=("a", "b", "c"), preprocessing=None)
    teacher = load_teacher("", str(tmp_path / "t.safetensors"))
    assert (teacher.name, teacher.classes, teacher.size) == ("rmt_pico", ("a", "b", "c"), (32, 32))
    with pytest.raises(RMTError, match="holds rmt_pico, not rmt_tiny"):
        load_teacher("rmt_tiny", str(tmp_path / "t.safetensors"))


def test_mistakes_are_one_line(tmp_path):
    with pytest.raises(RMTError, match="no such network"):
        load_teacher("resnet9000")
    with pytest.raises(RMTError, match="no checkpoint at"):
        load_teacher("resnet10t", str(tmp_path / "none.pth"))
    torch.save(timm.create_model("resnet10t", num_classes=4).state_dict(), tmp_path / "t.pth")
    with pytest.raises(RMTError, match=r"t\.pth: not weights of convnext_atto") as error:
        load_teacher("convnext_atto", str(tmp_path / "t.pth"))
    assert "\n" not in str(error.value)
