"""The region proposal network of Mask R-CNN and the cascade."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead

from rmt.heads.detection.anchors import Anchors, BoxMatcher


class Float32RPNHead(RPNHead):
    """torchvision's head, whose answers are float32 under autocast too: boxes in bfloat16 are off by pixels."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [at_least_float32(m) for m in logits], [at_least_float32(m) for m in deltas]


class RPN(RegionProposalNetwork):
    """torchvision's, with the box loss as an option and the paper's framework's numbers and matching.

    Args:
        in_channels: of the maps.
        anchors: of the maps.
        pre_nms, post_nms: proposals kept per level before, and per image after, suppression; in training, in testing.
        nms_threshold: overlap from which the less likely proposal goes.
        batch: anchors per image that count in the loss, at most half of them positive.
        beta: of the smooth L1 loss; 0 makes it L1.
    """

    def __init__(
        self,
        in_channels: int,
        anchors: Anchors,
        *,
        pre_nms: Sequence[int],
        post_nms: Sequence[int],
        nms_threshold: float,
        batch: int,
        beta: float,
    ) -> None:
        head = Float32RPNHead(in_channels, anchors.num_anchors_per_location()[0])
        pre, post = (dict(zip(("training", "testing"), n, strict=True)) for n in (pre_nms, post_nms))
        super().__init__(anchors, head, 0.7, 0.3, batch, 0.5, pre, post, nms_threshold)
        self.proposal_matcher = BoxMatcher(0.7, 0.3, low_quality=0.3)
        self.beta = beta

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy over the sampled anchors, and the box loss of the positive ones over the number of all sampled.

        Args:
            objectness: logits, B·N of them; pred_bbox_deltas: (B·N, 4).
            labels: 1, 0 or −1 (does not count), (N,) per image; regression_targets: (N, 4) per image.
        """
        masks = [torch.cat(chosen) for chosen in self.fg_bg_sampler(labels)]
        positive, negative = (torch.where(mask)[0] for mask in masks)
        sampled = torch.cat([positive, negative])
        box_loss = F.smooth_l1_loss(
            pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], beta=self.beta, reduction="sum"
        )
        loss = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled])
        return loss, box_loss / max(1, len(sampled))


def at_least_float32(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
