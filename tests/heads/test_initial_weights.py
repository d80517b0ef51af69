"""The initial weights of the heads, as docs/paper-vs-code.md says."""

import math

import pytest
import torch

from rmt.heads import detector, segmenter


def spread(weight: torch.Tensor) -> float:
    return weight.float().std().item()


def test_retinanet():
    torch.manual_seed(0)
    head = detector("retinanet", "rmt_test", 20, fpn_channels=64).head
    convs = [m for m in head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(spread(conv.weight) == pytest.approx(0.01, rel=0.1) for conv in convs)
    assert torch.allclose(head.classify.bias.sigmoid(), torch.tensor(0.01), atol=1e-6)


def test_box_and_mask_heads():
    torch.manual_seed(0)
    heads = detector("mask_rcnn", "rmt_test", 20, fpn_channels=64, box_fc_width=128, mask_width=64).roi_heads
    (box,) = heads.box_heads
    assert spread(box.classify.weight) == pytest.approx(0.01, rel=0.1)
    assert spread(box.regress.weight) == pytest.approx(0.001, rel=0.1)
    for linear in (m for m in box.shared.modules() if isinstance(m, torch.nn.Linear)):
        bound = math.sqrt(6 / sum(linear.weight.shape))  # Glorot and Bengio's
        assert linear.weight.abs().max() <= bound and spread(linear.weight) == pytest.approx(
            bound / math.sqrt(3), rel=0.1
        )
        assert not linear.bias.any()
    convs = [m for m in heads.mask_heads.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size == (3, 3)]
    assert convs
    for conv in convs:  # He's for ReLU, over the outputs
        assert spread(conv.weight) == pytest.approx(math.sqrt(2 / (conv.out_channels * 9)), rel=0.1)


def test_pyramid_and_proposals():
    torch.manual_seed(0)
    model = detector("mask_rcnn", "rmt_test", 20, fpn_channels=64)
    for conv in (m for m in model.backbone.fpn.modules() if isinstance(m, torch.nn.Conv2d)):
        fan_in = conv.in_channels * conv.kernel_size[0] ** 2
        assert spread(conv.weight) == pytest.approx(1 / math.sqrt(fan_in), rel=0.15) and not conv.bias.any()
    for conv in (m for m in model.rpn.head.modules() if isinstance(m, torch.nn.Conv2d)):
        assert spread(conv.weight) == pytest.approx(0.01, rel=0.2)


@pytest.mark.parametrize("head", ["semantic_fpn", "upernet"])
def test_segmenters_keep_pytorch_s(head):
    """Except for the pyramid of Semantic FPN, which is torchvision's."""
    torch.manual_seed(0)
    model = segmenter(head, "rmt_test", 150, head_args=dict(channels=64)).head
    own = [part for name, part in model.named_modules() if not name.startswith("fpn")]
    for conv in (m for m in own if isinstance(m, torch.nn.Conv2d) and m.weight.numel() > 2000):
        fan_in = conv.in_channels * conv.kernel_size[0] ** 2
        assert spread(conv.weight) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.15)
