"""Semantic FPN and UPerNet on the RMT pyramid, against a loop-by-loop reference of both heads."""

import pytest
import torch
import torch.nn.functional as F
from helpers.networks import TINY, official_weights
from torch import nn

import rmt
from rmt.heads import Pyramid, segmenter
from rmt.heads.segmentation.decode_heads import SemanticFPN, UPerNet
from rmt.model import RMT

CHANNELS = [4, 6, 8, 10]


def maps(height=64, width=96):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, c, -(-height // s), -(-width // s), generator=generator, dtype=torch.float64)
        for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)
    ]


def shaken(module: nn.Module) -> nn.Module:
    """Double precision, and norms with non-trivial statistics."""
    torch.manual_seed(0)
    for m in module.double().modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.weight)
            nn.init.normal_(m.bias)
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2)
    return module.eval()


def conv_norm_relu(x, layer):
    conv, norm = layer[0], layer[1]
    x = F.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2)
    x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + 1e-5).sqrt()
    return (x * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp(min=0)


def bilinear(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(64, 96), (70, 45)])
def test_semantic_fpn_spelled_out(size):
    head = shaken(SemanticFPN(CHANNELS, 3, fpn_channels=5, channels=7))
    x = maps(*size)
    inner = [F.conv2d(m, b[0].weight, b[0].bias) for m, b in zip(x, head.fpn.inner_blocks, strict=True)]
    for i in (2, 1, 0):
        inner[i] = inner[i] + F.interpolate(inner[i + 1], size=inner[i].shape[2:], mode="nearest")
    x = [F.conv2d(m, b[0].weight, b[0].bias, padding=1) for m, b in zip(inner, head.fpn.layer_blocks, strict=True)]
    total = conv_norm_relu(x[0], head.levels[0][0])
    for i in (1, 2, 3):
        y = x[i]
        for j in range(i):
            y = conv_norm_relu(y, head.levels[i][2 * j])
            y = bilinear(y, (2 * y.shape[2], 2 * y.shape[3]))
        total = total + bilinear(y, total.shape[2:])
    expected = F.conv2d(total, head.classifier.weight, head.classifier.bias)
    (got,) = head(maps(*size))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [(64, 96), (70, 45)])
def test_upernet_spelled_out(size):
    head = shaken(UPerNet(CHANNELS, 3, channels=5, aux_channels=4))
    x = maps(*size)
    pooled = [x[3]]
    for bins, branch in zip((1, 2, 3, 6), head.pooling.branches, strict=True):
        pooled.append(bilinear(conv_norm_relu(F.adaptive_avg_pool2d(x[3], bins), branch), x[3].shape[2:]))
    levels = [conv_norm_relu(m, lateral) for m, lateral in zip(x[:3], head.laterals, strict=True)]
    levels.append(conv_norm_relu(torch.cat(pooled, 1), head.pooling.bottleneck))
    for i in (2, 1, 0):
        levels[i] = levels[i] + bilinear(levels[i + 1], levels[i].shape[2:])
    levels = [conv_norm_relu(level, out) for level, out in zip(levels[:3], head.outputs, strict=True)] + levels[3:]
    fused = conv_norm_relu(torch.cat([bilinear(level, levels[0].shape[2:]) for level in levels], 1), head.fuse)
    expected = F.conv2d(fused, head.classifier.weight, head.classifier.bias)
    (got,) = head(maps(*size))
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_auxiliary_logits_come_in_training_alone():
    head = UPerNet(CHANNELS, 3, channels=5, aux_channels=4).double()
    assert [tuple(t.shape) for t in head.train()(maps())] == [(2, 3, 16, 24), (2, 3, 4, 6)]
    assert len(head.eval()(maps())) == 1


def test_sizes_of_the_paper():
    """As in the paper: FPN 256 and head 128; UPerNet 512 with bins 1, 2, 3, 6 and an auxiliary head of 256."""
    fpn = segmenter("semantic_fpn", "rmt_small", device="meta").head
    assert fpn.fpn.inner_blocks[0][0].out_channels == 256
    assert [sum(isinstance(m, nn.Conv2d) for m in level.modules()) for level in fpn.levels] == [1, 1, 2, 3]
    assert fpn.classifier.in_channels == 128 and fpn.dropout.p == 0.1
    upernet = segmenter("upernet", "rmt_small", device="meta").head
    assert upernet.pooling.bins == (1, 2, 3, 6)
    assert upernet.fuse[0].in_channels == 2048 and upernet.classifier.in_channels == 512
    assert upernet.auxiliary[0][0].in_channels == 256 and upernet.auxiliary[2].in_channels == 256


@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
@pytest.mark.parametrize("size", [(64, 64), (70, 45)])
def test_logits_have_the_images_size_and_everything_learns(head, size):
    model = rmt.segmenter(head, "rmt_pico", num_classes=5, head_args=dict(channels=16))
    x = torch.randn(2, 3, *size)
    assert model.eval()(x).shape == (2, 5, *size)
    parts = model.train().loss(x, torch.randint(0, 5, (2, *size)))
    assert set(parts) == ({"loss", "main", "aux"} if head == "upernet" else {"loss", "main"})
    parts["loss"].backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    if head == "upernet":
        torch.testing.assert_close(parts["loss"], parts["main"] + 0.4 * parts["aux"])


def test_ignored_pixels_count_nothing_and_never_make_nan():
    model = rmt.segmenter("semantic_fpn", "rmt_pico", num_classes=3, head_args=dict(channels=8)).eval()
    x = torch.randn(1, 3, 32, 32)
    everything = model.loss(x, torch.full((1, 32, 32), 255))
    assert everything["loss"].item() == 0
    mask = torch.randint(0, 3, (1, 32, 32))
    half = mask.clone()
    half[:, 16:] = 255
    full_loss = F.cross_entropy(model(x), mask, reduction="none")
    torch.testing.assert_close(
        model.loss(x, half)["loss"], full_loss[:, :16].sum() / mask.numel(), rtol=1e-4, atol=1e-5
    )


class TestPyramid:
    def test_each_level_is_normalised_over_channels(self):
        pyramid = Pyramid(RMT(**TINY)).eval()
        x = torch.randn(1, 3, 64, 96)
        with torch.no_grad():
            raw = pyramid.backbone.forward_intermediates(x, intermediates_only=True)
            for got, m in zip(pyramid(x), raw, strict=True):
                mean = m.mean(1, keepdim=True)
                var = m.var(1, keepdim=True, correction=0)
                torch.testing.assert_close(got, (m - mean) / (var + 1e-5).sqrt(), rtol=1e-4, atol=1e-5)

    def test_from_the_second_stage_on(self):
        pyramid = Pyramid(RMT(**TINY), first=1)
        assert (pyramid.channels, pyramid.strides) == ([32, 64, 128], [8, 16, 32])
        assert [m.shape[1] for m in pyramid(torch.randn(1, 3, 64, 64))] == [32, 64, 128]

    def test_loads_the_authors_segmenter(self):
        state = {f"backbone.{k}": v for k, v in official_weights("tiny").items() if k.startswith(("patch", "layers"))}
        for i, c in enumerate((16, 32, 64, 128)):
            state |= {f"backbone.extra_norms.{i}.weight": torch.full((c,), i + 2.0)}
            state |= {f"backbone.extra_norms.{i}.bias": torch.full((c,), i + 0.5)}
        state["decode_head.conv_seg.weight"] = torch.zeros(1)
        pyramid = Pyramid(RMT(**TINY))
        assert pyramid.load_backbone({"state_dict": state}) == []
        assert [norm.weight[0].item() for norm in pyramid.norms] == [2, 3, 4, 5]
        assert [norm.bias[0].item() for norm in pyramid.norms] == [0.5, 1.5, 2.5, 3.5]
        given = official_weights("tiny")["layers.2.blocks.1.ffn.fc1.weight"]
        assert torch.equal(pyramid.backbone.stages[2].blocks[1].mlp.fc1.weight, given)
        later = Pyramid(RMT(**TINY), first=1)
        assert later.load_backbone({"state_dict": state}) == []
        assert [norm.weight[0].item() for norm in later.norms] == [3, 4, 5]
        state["backbone.extra_norms.1.weight"] = torch.ones(5)
        with pytest.raises(rmt.RMTError, match=r"1\.weight \(5,\) instead of \(32,\)"):
            pyramid.load_backbone({"state_dict": state})

    def test_loads_a_classifier(self, tmp_path):
        pyramid = Pyramid(RMT(**TINY))
        assert pyramid.load_backbone(official_weights("tiny")) == [f"norms.{i}" for i in range(4)]
        torch.manual_seed(0)
        rmt.save_checkpoint(rmt.create_model("rmt_pico"), tmp_path / "c.safetensors")
        own = Pyramid(rmt.create_model("rmt_pico"))
        own.load_backbone(tmp_path / "c.safetensors")
        torch.manual_seed(0)
        assert torch.equal(own.backbone.stem[0].weight, rmt.create_model("rmt_pico").stem[0].weight)
        with pytest.raises(rmt.RMTError, match="does not fit"):
            pyramid.load_backbone(tmp_path / "c.safetensors")


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rmt.segmenter("deeplab"), "no segmentation head named 'deeplab'; choose one of semantic_fpn, upernet"),
        (lambda: rmt.segmenter("upernet", "rmt_huge"), "no network named"),
        (lambda: rmt.segmenter("upernet", "rmt_deit_small", device="meta"), "four stages"),
    ],
)
def test_mistakes_are_one_line(call, match):
    with pytest.raises(rmt.RMTError, match=match):
        call()
