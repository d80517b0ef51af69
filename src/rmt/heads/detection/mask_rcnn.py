"""Mask R-CNN and Cascade Mask R-CNN."""

import torch
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rmt.heads.detection.anchors import AnchorGenerator
from rmt.heads.detection.detector import Detector
from rmt.heads.detection.fpn import BackboneWithFPN
from rmt.heads.detection.options import MaskRCNNOptions
from rmt.heads.detection.roi_heads import RoIHeads
from rmt.heads.detection.rpn import RegionProposalNetwork
from rmt.heads.detection.transform import DetectionTransform
from rmt.heads.pyramid import Pyramid

ROI_LEVELS = 4  # RoIs are pooled from P2 … P5; P6 is for proposals only


class MaskRCNN(Detector, GeneralizedRCNN):
    """Mask R-CNN or, depending on the options, Cascade Mask R-CNN, or either without masks. See `rmt.detector`."""

    def __init__(self, pyramid: Pyramid, num_classes: int, options: MaskRCNNOptions) -> None:
        o = options
        backbone = BackboneWithFPN(pyramid, o.fpn_channels, LastLevelMaxPool(), extra_levels=1)
        anchors = AnchorGenerator(o.anchor_scales, o.anchor_ratios, backbone.strides, rounded=o.round_anchors)
        rpn = RegionProposalNetwork(anchors, o)
        roi_heads = RoIHeads(backbone.strides[:ROI_LEVELS], num_classes, o)
        super().__init__(backbone, rpn, roi_heads, DetectionTransform(o.image_mean, o.image_std, o.size_divisor))
        self.num_classes = num_classes
        self.mask_threshold: float | None = o.mask_threshold
        self.options: MaskRCNNOptions = options

    def class_logits(self, images: list[Tensor], box: Tensor, label: int) -> Tensor:
        """The logit of one class for one box in each image, (B,), differentiable: images as in `forward`, box (4,).

        Of a cascade, the mean of its stages for this box.
        """
        batch, _ = self.transform(images)
        maps = list(self.backbone(batch.tensors).values())
        heads: RoIHeads = self.roi_heads
        pooled = heads.box_roi_pool(maps, [box[None].to(maps[0])] * len(images))
        return torch.stack([head(pooled)[0][:, label] for head in heads.box_heads]).mean(0)
