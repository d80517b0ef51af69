"""RetinaNet: network, head and loss (Focal Loss for Dense Object Detection, Lin et al., ICCV 2017)."""

import math

import torch
import torch.nn.functional as F
import torchvision.models.detection as tv
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import permute_and_flatten
from torchvision.ops import box_iou, clip_boxes_to_image, sigmoid_focal_loss

from rmt.heads.detection.anchors import AnchorGenerator, Matcher
from rmt.heads.detection.detector import Detector
from rmt.heads.detection.fpn import BackboneWithFPN, LastLevelP6P7
from rmt.heads.detection.options import RetinaNetOptions
from rmt.heads.detection.postprocess import at_least_float32, filter_scores, nms
from rmt.heads.detection.transform import DetectionTransform
from rmt.heads.pyramid import Pyramid

PRIOR = 0.01
"""Initial probability of every class at every anchor."""
_POSITIVE_IOU = 0.5  # of an anchor with an object that is assigned to it


class RetinaNetHead(nn.Module):
    """Feature maps (B, C, hᵢ, wᵢ) to `cls_logits` (B, N, K) and `bbox_regression` (B, N, 4), N = Σ hᵢ·wᵢ·A anchors.

    Two branches of 3×3 convolutions with ReLU, with the same weights for all levels.

    Args:
        num_anchors: A, anchors per location.
        num_classes: number of classes K.
        options: channels C, number of convolutions, normalisation of the losses.
    """

    num_anchors: int
    num_classes: int
    classification: nn.Sequential
    regression: nn.Sequential

    def __init__(self, num_anchors: int, num_classes: int, options: RetinaNetOptions) -> None:
        super().__init__()
        channels = options.fpn_channels
        self.num_anchors, self.num_classes = num_anchors, num_classes
        self.normalise_by: str = options.normalise_by
        self.box_coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
        self.classification, self.regression = (_branch(channels, options.convs) for _ in range(2))
        self.classify: nn.Conv2d = nn.Conv2d(channels, num_anchors * num_classes, 3, padding=1)
        self.regress: nn.Conv2d = nn.Conv2d(channels, num_anchors * 4, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.classify.bias, -math.log((1 - PRIOR) / PRIOR))  # type: ignore[arg-type]

    def forward(self, maps: list[Tensor]) -> dict[str, Tensor]:
        logits = [self._flatten(self.classify(self.classification(m)), self.num_classes) for m in maps]
        deltas = [self._flatten(self.regress(self.regression(m)), 4) for m in maps]
        return {"cls_logits": torch.cat(logits, dim=1), "bbox_regression": torch.cat(deltas, dim=1)}

    def _flatten(self, x: Tensor, channels: int) -> Tensor:
        batch, _, height, width = x.shape
        return at_least_float32(permute_and_flatten(x, batch, self.num_anchors, channels, height, width))

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Focal loss (α 0.25, γ 2) of all anchors that are not ignored, L1 loss of the deltas of the positive ones.

        Args:
            anchors: (N, 4) per image.
            matched_idxs: (N,) per image, index of the ground-truth box, −1 for none, −2 for ignored.
        """
        classification, regression, positives = [], [], []
        outputs = zip(head_outputs["cls_logits"], head_outputs["bbox_regression"], strict=True)
        for target, (logits, deltas), boxes, index in zip(targets, outputs, anchors, matched_idxs, strict=True):
            positive = index >= 0
            used = index != Matcher.BETWEEN_THRESHOLDS
            class_targets = torch.zeros_like(logits)
            class_targets[positive, target["labels"][index[positive]]] = 1
            classification.append(sigmoid_focal_loss(logits[used], class_targets[used], reduction="sum"))
            gt_boxes = target["boxes"][index[positive]].to(boxes.dtype)
            delta_targets = self.box_coder.encode_single(gt_boxes, boxes[positive])
            regression.append(F.l1_loss(deltas[positive], delta_targets, reduction="sum"))
            positives.append(positive.sum())
        losses = {"classification": torch.stack(classification), "bbox_regression": torch.stack(regression)}
        count = torch.stack(positives)
        if self.normalise_by == "batch":
            return {name: loss.sum() / count.sum().clamp(min=1) for name, loss in losses.items()}
        return {name: (loss / count.clamp(min=1)).mean() for name, loss in losses.items()}


def _branch(channels: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(convs):
        layers += [nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class RetinaNet(Detector, tv.RetinaNet):
    """torchvision's RetinaNet with our pyramid, head, matching and transform. See `rmt.detector` for its interface."""

    def __init__(self, pyramid: Pyramid, num_classes: int, options: RetinaNetOptions) -> None:
        o = options
        extra = LastLevelP6P7(pyramid.channels[-1], o.fpn_channels, source=o.p6_source, relu=o.p6_relu)
        backbone = BackboneWithFPN(pyramid, o.fpn_channels, extra, extra_levels=2)
        scales = [o.octave_base * 2 ** (i / o.octave_scales) for i in range(o.octave_scales)]
        anchors = AnchorGenerator(scales, o.anchor_ratios, backbone.strides, rounded=o.round_anchors)
        super().__init__(
            backbone,
            num_classes,
            anchor_generator=anchors,
            head=RetinaNetHead(anchors.num_anchors_per_location()[0], num_classes, o),
            proposal_matcher=Matcher(_POSITIVE_IOU, 0.4, low_quality=0.0),
            score_thresh=o.score_threshold,
            nms_thresh=o.nms_threshold,
            detections_per_img=o.detections,
            topk_candidates=o.candidates,
        )
        self.transform: DetectionTransform = DetectionTransform(o.image_mean, o.image_std, o.size_divisor)
        self.num_classes = num_classes
        self.options: RetinaNetOptions = options

    def class_logits(self, images: list[Tensor], box: Tensor, label: int) -> Tensor:
        """The logit of one class at one box in each image, (B,), differentiable: images as in `forward`, box (4,).

        It is the highest one of the anchors that training would assign to the box.
        """
        batch, _ = self.transform(images)
        maps = list(self.backbone(batch.tensors).values())
        logits = self.head(maps)["cls_logits"][..., label]
        overlaps = box_iou(box[None].to(logits), self.anchor_generator(batch, maps)[0])[0]
        return logits[:, overlaps >= overlaps.max().clamp(max=_POSITIVE_IOU)].amax(1)

    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """As torchvision's, but boxes without area are removed, see `nms`."""
        detections = []
        for i, shape in enumerate(image_shapes):
            boxes, labels, scores = [], [], []
            levels = zip(head_outputs["cls_logits"], head_outputs["bbox_regression"], anchors[i], strict=True)
            for logits, deltas, level_anchors in levels:
                level_scores = logits[i].sigmoid()
                row, label = filter_scores(level_scores, self.score_thresh, self.topk_candidates)
                decoded = self.box_coder.decode_single(deltas[i][row], level_anchors[row])
                boxes.append(clip_boxes_to_image(decoded, shape))
                labels.append(label)
                scores.append(level_scores[row, label])
            candidates = torch.cat(boxes), torch.cat(labels), torch.cat(scores)
            detections.append(nms(*candidates, threshold=self.nms_thresh, limit=self.detections_per_img))
        return detections
