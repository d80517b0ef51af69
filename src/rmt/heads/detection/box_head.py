"""One box head of Mask R-CNN or the cascade: what a region shows, where its box should be, and the loss of both."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.ops import generalized_box_iou_loss

from rmt.errors import RMTError
from rmt.heads.detection.rpn import at_least_float32

BOX_LOSSES = ("l1", "smooth_l1", "giou")


class BoxHead(nn.Module):
    """Pooled maps (R, C, size, size) to class logits (R, K + 1), background last, and box deltas (R, K, 4).

    Args:
        in_channels: C.
        num_classes: K.
        size: of the pooled maps.
        convs: how many 3×3 convolutions to `conv_width`, each with BatchNorm (which the trainer synchronises) and ReLU.
        fcs: how many linears to `fc_width`, each with ReLU.
        stds: scale of the deltas (dx, dy, log dw, log dh): what is predicted, times this, is applied to the box.
        box_loss: "l1" or "smooth_l1" (β 1/9) of deltas, or "giou" of decoded boxes.
        box_weight: of the box loss.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        *,
        size: int,
        convs: int,
        conv_width: int,
        fcs: int,
        fc_width: int,
        stds: Sequence[float],
        box_loss: str,
        box_weight: float,
    ) -> None:
        super().__init__()
        if box_loss not in BOX_LOSSES:
            raise RMTError(f"box_loss={box_loss!r} is not one of {', '.join(BOX_LOSSES)}")
        self.num_classes = num_classes
        self.box_loss = box_loss
        self.box_weight = box_weight
        wx, wy, ww, wh = (1 / std for std in stds)
        self.coder = BoxCoder((wx, wy, ww, wh))
        self.shared = FastRCNNConvFCHead(
            (in_channels, size, size), [conv_width] * convs, [fc_width] * fcs, norm_layer=nn.BatchNorm2d
        )
        width = fc_width if fcs else (conv_width if convs else in_channels) * size**2
        self.classify = nn.Linear(width, num_classes + 1)
        self.regress = nn.Linear(width, num_classes * 4)
        for module in self.shared.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        # Small, so that training starts from even odds and the boxes as they come.
        for linear, std in ((self.classify, 0.01), (self.regress, 0.001)):
            nn.init.normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        x = self.shared(pooled)
        return at_least_float32(self.classify(x)), at_least_float32(self.regress(x)).unflatten(1, (-1, 4))

    def decode(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """Deltas (R, K, 4) or (R, 4) applied to boxes (R, 4): boxes of the deltas' shape."""
        return self.coder.decode_single(deltas.flatten(1), boxes).view_as(deltas)

    def loss(
        self, logits: Tensor, deltas: Tensor, boxes: Tensor, labels: Tensor, truth: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy, and the box loss of the regions that show an object; both divided by all R.

        Args:
            logits: (R, K + 1); deltas: (R, K, 4).
            boxes: the regions, (R, 4).
            labels: (R,), K for background.
            truth: ground-truth boxes (R, 4); what stands beside a background label does not matter.
        """
        shown = labels < self.num_classes
        own = deltas[shown, labels[shown]]  # class-specific: the deltas of the true class
        if self.box_loss == "giou":
            box = generalized_box_iou_loss(self.decode(own, boxes[shown]), truth[shown], reduction="sum")
        else:
            beta = 0.0 if self.box_loss == "l1" else 1 / 9
            target = self.coder.encode_single(truth[shown], boxes[shown])
            box = F.smooth_l1_loss(own, target, beta=beta, reduction="sum")  # L1 at β = 0
        return F.cross_entropy(logits, labels), self.box_weight * box / max(1, len(labels))
