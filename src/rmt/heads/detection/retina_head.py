"""RetinaNet's head and its loss (Focal Loss for Dense Object Detection, Lin et al., ICCV 2017)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.models.detection.rpn import permute_and_flatten
from torchvision.ops import sigmoid_focal_loss

from rmt.errors import RMTError
from rmt.heads.detection.rpn import at_least_float32

PRIOR = 0.01
"""The probability that every anchor starts with, for every class."""


class RetinaHead(nn.Module):
    """Maps (B, C, hᵢ, wᵢ) to `cls_logits` (B, N, K) and `bbox_regression` (B, N, 4), N = Σ hᵢ·wᵢ·A anchors.

    Two towers of 3×3 convolutions with ReLU, shared by the levels.

    Args:
        in_channels: C, which the towers keep.
        num_anchors: A.
        num_classes: K.
        convs: per tower.
        normalise_by: "batch", the losses over all positive anchors of the batch; or "image", over those of each image
            and then over the images, as torchvision has it.
    """

    def __init__(
        self, in_channels: int, num_anchors: int, num_classes: int, *, convs: int, normalise_by: str = "batch"
    ) -> None:
        super().__init__()
        if normalise_by not in ("batch", "image"):
            raise RMTError(f"normalise_by={normalise_by!r} is neither 'batch' nor 'image'")
        self.num_anchors, self.num_classes = num_anchors, num_classes
        self.normalise_by = normalise_by
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.classification, self.regression = (_tower(in_channels, convs) for _ in range(2))
        self.classify = nn.Conv2d(in_channels, num_anchors * num_classes, 3, padding=1)
        self.regress = nn.Conv2d(in_channels, num_anchors * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        logits = [self._flat(self.classify(self.classification(m)), self.num_classes) for m in maps]
        deltas = [self._flat(self.regress(self.regression(m)), 4) for m in maps]
        return {"cls_logits": torch.cat(logits, dim=1), "bbox_regression": torch.cat(deltas, dim=1)}

    def _flat(self, x: Tensor, channels: int) -> Tensor:
        batch, _, height, width = x.shape
        return at_least_float32(permute_and_flatten(x, batch, self.num_anchors, channels, height, width))

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Focal loss (α 0.25, γ 2) of all decided anchors, L1 loss of the positive ones' deltas.

        Args:
            anchors: (N, 4) per image; matched_idxs: (N,) per image, the box, −1 for none, −2 for undecided.
        """
        classification, regression, positives = [], [], []
        outputs = zip(head_outputs["cls_logits"], head_outputs["bbox_regression"], strict=True)
        for target, (logits, deltas), boxes, index in zip(targets, outputs, anchors, matched_idxs, strict=True):
            positive = index >= 0
            decided = index != Matcher.BETWEEN_THRESHOLDS
            wanted = torch.zeros_like(logits)
            wanted[positive, target["labels"][index[positive]]] = 1
            classification.append(sigmoid_focal_loss(logits[decided], wanted[decided], reduction="sum"))
            truth = target["boxes"][index[positive]].to(boxes.dtype)
            wanted_deltas = self.box_coder.encode_single(truth, boxes[positive])
            regression.append(F.l1_loss(deltas[positive], wanted_deltas, reduction="sum"))
            positives.append(positive.sum())
        return {
            "classification": self._normalised(classification, positives),
            "bbox_regression": self._normalised(regression, positives),
        }

    def _normalised(self, losses: list[Tensor], positives: list[Tensor]) -> Tensor:
        total, count = torch.stack(losses), torch.stack(positives)
        if self.normalise_by == "batch":
            return total.sum() / count.sum().clamp(min=1)
        return (total / count.clamp(min=1)).mean()


def _tower(channels: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
