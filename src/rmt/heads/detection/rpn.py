"""The region proposal network (RPN) of Mask R-CNN and Cascade Mask R-CNN."""

import torch
import torch.nn.functional as F
import torchvision.models.detection.rpn as tv
from torch import Tensor

from rmt.heads.detection.anchors import AnchorGenerator, Matcher
from rmt.heads.detection.options import MaskRCNNOptions
from rmt.heads.detection.postprocess import at_least_float32


class RPNHead(tv.RPNHead):
    """torchvision's head, with outputs in float32 under autocast too."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = super().forward(x)
        return [at_least_float32(m) for m in logits], [at_least_float32(m) for m in deltas]


class RegionProposalNetwork(tv.RegionProposalNetwork):
    """torchvision's RPN with MMDetection's matching, and L1 or smooth L1 as its box loss."""

    def __init__(self, anchor_generator: AnchorGenerator, options: MaskRCNNOptions) -> None:
        o = options
        head = RPNHead(o.fpn_channels, anchor_generator.num_anchors_per_location()[0])
        pre, post = (dict(zip(("training", "testing"), n, strict=True)) for n in (o.pre_nms, o.post_nms))
        super().__init__(anchor_generator, head, 0.7, 0.3, o.rpn_batch, 0.5, pre, post, o.rpn_nms_threshold)
        self.proposal_matcher: Matcher = Matcher(0.7, 0.3, low_quality=0.3)
        self.beta: float = o.rpn_beta

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the sampled anchors, and box loss of the positive ones divided by the number of all sampled.

        Args:
            objectness: logits, B·N of them; pred_bbox_deltas: (B·N, 4).
            labels: 1, 0 or −1 (ignored), (N,) per image; regression_targets: (N, 4) per image.
        """
        masks = [torch.cat(chosen) for chosen in self.fg_bg_sampler(labels)]
        positive, negative = (torch.where(mask)[0] for mask in masks)
        sampled = torch.cat([positive, negative])
        box_loss = F.smooth_l1_loss(
            pred_bbox_deltas[positive], torch.cat(regression_targets)[positive], beta=self.beta, reduction="sum"
        )
        loss = F.binary_cross_entropy_with_logits(objectness.flatten()[sampled], torch.cat(labels)[sampled])
        return loss, box_loss / max(1, len(sampled))
