"""The losses of segmentation against loops over the pixels."""

import math

import pytest
import torch
from torch import Tensor

from rmt.heads.segmentation.losses import IGNORE, SegmentationLoss, dice_loss, median_frequency_weights

B, K, H, W = 2, 4, 5, 6


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Logits, and labels in which a fifth is ignored and class 3 does not occur."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (B, H, W), generator=generator)
    labels[torch.rand(B, H, W, generator=generator) < 0.2] = IGNORE
    return 3 * torch.randn(B, K, H, W, generator=generator), labels


def pixels(logits: Tensor, labels: Tensor) -> list[tuple[list[float], int]]:
    """Probabilities and label of each labelled pixel, by hand."""
    found = []
    for b in range(B):
        for y in range(H):
            for x in range(W):
                powers = [math.exp(float(logits[b, k, y, x])) for k in range(K)]
                if (label := int(labels[b, y, x])) != IGNORE:
                    found.append(([power / sum(powers) for power in powers], label))
    return found


@pytest.mark.parametrize("gamma", [0.0, 2.0, 0.5])
@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 1.0, 3.0]])
def test_focal_loss_pixel_by_pixel(batch, gamma, weights):
    loss = SegmentationLoss(focal_gamma=gamma, class_weights=None if weights is None else torch.tensor(weights))
    total = sum(
        (weights[label] if weights else 1) * (1 - p[label]) ** gamma * -math.log(p[label])
        for p, label in pixels(*batch)
    )
    assert float(loss(*batch)) == pytest.approx(total / (B * H * W), rel=1e-5)


def test_focal_loss_of_what_is_certainly_right_has_a_gradient():
    """Below 1 the slope of its factor is infinite at a probability of 1."""
    logits = torch.tensor([0.0, 16.0, 17.0, 40.0]).view(1, 1, 1, 4).mul(torch.tensor([1.0, 0.0]).view(1, 2, 1, 1))
    logits.requires_grad_()
    SegmentationLoss(focal_gamma=0.5)(logits, torch.zeros(1, 1, 4, dtype=torch.long)).backward()
    assert logits.grad.isfinite().all() and logits.grad[..., 0].abs().min() > 0


def test_dice_loss_pixel_by_pixel(batch):
    scores = []
    for k in range(3):  # class 3 does not occur
        hits = sum(p[k] for p, label in pixels(*batch) if label == k)
        sums = sum(p[k] + (label == k) for p, label in pixels(*batch))
        scores.append(1 - 2 * hits / sums)
    assert float(dice_loss(*batch)) == pytest.approx(sum(scores) / 3, rel=1e-5)


def test_dice_is_added_to_the_cross_entropy(batch):
    plain, both = SegmentationLoss(), SegmentationLoss(dice_weight=0.5)
    torch.testing.assert_close(both(*batch), plain(*batch) + 0.5 * dice_loss(*batch))


@pytest.mark.parametrize("options", [dict(), dict(focal_gamma=2.0), dict(dice_weight=1.0)])
def test_ignored_pixels_have_no_gradient_and_never_make_nan(batch, options):
    loss = SegmentationLoss(**options)
    logits, labels = batch[0].requires_grad_(), batch[1]
    loss(logits, labels).backward()
    assert logits.grad.abs().sum(1)[labels == IGNORE].max() == 0
    assert logits.grad.abs().sum(1)[labels != IGNORE].min() > 0
    logits.grad = None
    nothing = loss(logits, torch.full_like(labels, IGNORE))
    nothing.backward()
    assert nothing.item() == 0 and logits.grad.abs().max() == 0


def test_a_perfect_prediction_has_no_loss(batch):
    labels = batch[1]
    logits = 100 * torch.nn.functional.one_hot(labels.where(labels != IGNORE, 0), K).movedim(3, 1).float()
    assert float(SegmentationLoss(focal_gamma=2.0, dice_weight=1.0)(logits, labels)) == pytest.approx(0, abs=1e-6)


def test_median_frequency_weights():
    weights = median_frequency_weights(torch.tensor([100, 10, 1000, 0]))
    assert weights.tolist() == pytest.approx([1.0, 10.0, 0.1, 0.0])
    softer = median_frequency_weights(torch.tensor([100, 10, 1000, 0]), power=0.5)
    assert softer.tolist() == pytest.approx([1.0, 10**0.5, 0.1**0.5, 0.0])
