"""Box head of Mask R-CNN, and of one stage of the cascade: classes and boxes of regions, and their losses."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.ops import generalized_box_iou_loss

from rmt.heads.detection.options import MaskRCNNOptions
from rmt.heads.detection.postprocess import at_least_float32

ROI_SIZE = 7  # of the pooled feature maps


class BoxHead(nn.Module):
    """Pooled feature maps (R, C, 7, 7) to class logits (R, K + 1), background last, and box deltas (R, K, 4).

    Args:
        num_classes: number of classes K.
        stds: scales of the deltas (dx, dy, log dw, log dh): the prediction times this is applied to the box.
        options: channels, layers and box loss.
    """

    def __init__(self, num_classes: int, stds: Sequence[float], options: MaskRCNNOptions) -> None:
        super().__init__()
        o = options
        self.num_classes = num_classes
        self.options = options
        wx, wy, ww, wh = (1 / std for std in stds)
        self.box_coder = BoxCoder((wx, wy, ww, wh))
        self.shared = FastRCNNConvFCHead(
            (o.fpn_channels, ROI_SIZE, ROI_SIZE),
            [o.box_conv_width] * o.box_convs,
            [o.box_fc_width] * o.box_fcs,
            norm_layer=nn.BatchNorm2d,
        )
        channels = o.box_conv_width if o.box_convs else o.fpn_channels
        width = o.box_fc_width if o.box_fcs else channels * ROI_SIZE**2
        self.classify: nn.Linear = nn.Linear(width, num_classes + 1)
        self.regress: nn.Linear = nn.Linear(width, num_classes * 4)
        for module in self.shared.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Small, so that training starts from equal probabilities and unchanged boxes.
        for linear, std in ((self.classify, 0.01), (self.regress, 0.001)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = self.shared(pooled)
        return at_least_float32(self.classify(x)), at_least_float32(self.regress(x)).unflatten(1, (-1, 4))

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Apply deltas (R, K, 4) or (R, 4) to boxes (R, 4); returns boxes of the shape of the deltas."""
        return self.box_coder.decode_single(deltas.flatten(1), boxes).view_as(deltas)

    def loss(
        self, logits: Tensor, deltas: Tensor, boxes: Tensor, labels: Tensor, gt_boxes: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the box loss of the regions that are assigned to an object; both divided by R.

        Args:
            logits: (R, K + 1); deltas: (R, K, 4).
            boxes: the regions, (R, 4).
            labels: (R,), K for background.
            gt_boxes: ground-truth boxes (R, 4); those of background regions are not used.
        """
        positive = labels < self.num_classes
        class_deltas = deltas[positive, labels[positive]]  # those of the true class
        if self.options.box_loss == "giou":
            decoded = self.decode(class_deltas, boxes[positive])
            loss = generalized_box_iou_loss(decoded, gt_boxes[positive], reduction="sum")
        else:
            beta = 0.0 if self.options.box_loss == "l1" else 1 / 9
            targets = self.box_coder.encode_single(gt_boxes[positive], boxes[positive])
            loss = F.smooth_l1_loss(class_deltas, targets, beta=beta, reduction="sum")  # L1 at β = 0
        return F.cross_entropy(logits, labels), self.options.box_weight * loss / max(1, len(labels))
