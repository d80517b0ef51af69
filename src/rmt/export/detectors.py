"""The detectors as graphs: outputs of fixed sizes, whatever the image shows."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image, nms, roi_align

from rmt.heads.detection.box_head import BoxHead
from rmt.heads.detection.fpn import BackboneWithFPN
from rmt.heads.detection.mask_rcnn import MaskRCNN
from rmt.heads.detection.postprocess import at_least_float32
from rmt.heads.detection.retinanet import RetinaNet, RetinaNetHead
from rmt.heads.detection.roi_heads import MultiScaleRoIAlign, RoIHeads
from rmt.heads.detection.rpn import RegionProposalNetwork

MAX_CANDIDATES = 4000
"""Pairs of region and class that take part in the last suppression, those with the highest scores: the detections are
the network's wherever as many of these as it returns are not suppressed."""


class DenseDetector(nn.Module):
    """RetinaNet without decoding and suppression: images (B, 3, H, W) to `cls_logits` (B, N, K) and `bbox_regression`
    (B, N, 4) of the N anchors. See `ExportedDetector` for the rest."""

    outputs: tuple[str, ...] = ("cls_logits", "bbox_regression")

    backbone: BackboneWithFPN
    head: RetinaNetHead

    def __init__(self, model: RetinaNet) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.head(list(self.backbone(images).values()))
        return found["cls_logits"], found["bbox_regression"]


class TwoStageDetector(nn.Module):
    """Mask R-CNN, Cascade Mask R-CNN and both without masks, for one image of one size, with suppression in the graph.

    Image (1, 3, H, W) to `boxes` (1, D, 4), `scores` (1, D), `labels` (1, D) and, with masks, `masks` (1, D, m, m) of
    the D detections with the highest scores, where m is the side of a box's mask. What is left over has a score of −1.
    Boxes are cut off at H and W, also those of the regions; the eager network knows how much of an image is padding.
    """

    backbone: BackboneWithFPN
    rpn: RegionProposalNetwork
    roi_heads: RoIHeads

    def __init__(self, model: MaskRCNN, size: tuple[int, int]) -> None:
        super().__init__()
        self.backbone, self.rpn, self.roi_heads = model.backbone, model.rpn, model.roi_heads
        self.size = size
        self.outputs: tuple[str, ...] = (
            "boxes",
            "scores",
            "labels",
            *(("masks",) if model.options.predicts_masks else ()),
        )
        grids = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in model.backbone.strides]
        maps = [torch.empty(1, 0, *grid) for grid in grids]
        anchors = model.rpn.anchor_generator(ImageList(torch.empty(1, 0, *size), [size]), maps)[0]
        per_cell = model.rpn.anchor_generator.num_anchors_per_location()[0]
        for level, part in enumerate(anchors.split([per_cell * height * width for height, width in grids])):
            self.register_buffer(f"anchors{level}", part, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = list(self.backbone(images).values())
        boxes, is_region = self._regions(maps)
        boxes, scores, labels = self._detections(maps, boxes, is_region)
        if not self.roi_heads.mask_heads:
            return boxes[None], scores[None], labels[None]
        pooled = _pool(self.roi_heads.mask_roi_pool, maps, boxes)
        index = labels[:, None, None, None]
        stages = []
        for head in self.roi_heads.mask_heads:
            logits = at_least_float32(head(pooled))
            stages.append(logits.gather(1, index.expand(-1, 1, *logits.shape[2:])).sigmoid()[:, 0])
        masks = torch.stack(stages).mean(dim=0)
        return boxes[None], scores[None], labels[None], masks[None]

    def _regions(self, maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The proposals (R, 4), and whether each is one (R,): R is fixed, and suppression leaves fewer.

        As torchvision's `filter_proposals`, of which each step is here on a fixed number of boxes."""
        boxes, logits = [], []
        for level, (objectness, deltas) in enumerate(zip(*self.rpn.head(maps), strict=True)):
            objectness = objectness[0].permute(1, 2, 0).flatten()
            deltas = deltas[0].unflatten(0, (-1, 4)).permute(2, 3, 0, 1).reshape(-1, 4)
            limit = min(self.rpn.pre_nms_top_n(), objectness.shape[0])
            best, index = objectness.topk(limit)
            scores = best.sigmoid()
            anchors = cast(Tensor, getattr(self, f"anchors{level}"))
            found = self.rpn.box_coder.decode_single(deltas[index], anchors[index])
            found = clip_boxes_to_image(found, self.size)
            kept = _kept(found, scores, self.rpn.nms_thresh)
            large = ((found[:, 2:] - found[:, :2]) >= self.rpn.min_size).all(dim=1)
            boxes.append(found)
            logits.append(torch.where(kept & large, scores, -1.0))
        scores = torch.cat(logits)
        best, index = scores.topk(min(self.rpn.post_nms_top_n(), scores.shape[0]))
        return torch.cat(boxes)[index], best >= 0

    def _detections(self, maps: list[Tensor], boxes: Tensor, is_region: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (D, 4), scores (D,) and labels (D,), as `RoIHeads._detect` and `RoIHeads._postprocess`."""
        heads, options = self.roi_heads, self.roi_heads.options
        average_logits = options.score_average == "logits"
        stage_scores = []
        for stage, head in enumerate(cast(list[BoxHead], heads.box_heads)):
            logits, deltas = head(_pool(heads.box_roi_pool, maps, boxes))
            stage_scores.append(logits if average_logits else logits.softmax(dim=1))
            if stage + 1 < len(heads.box_heads):
                (boxes,) = heads.refine_boxes(stage, logits, deltas, [boxes], [self.size])
        scores = torch.stack(stage_scores).mean(dim=0)
        scores = (scores.softmax(dim=1) if average_logits else scores)[:, : heads.num_classes]
        decoded = clip_boxes_to_image(head.decode(deltas, boxes), self.size)
        solid = (decoded[..., 2:] > decoded[..., :2]).all(dim=2)
        possible = is_region[:, None] & solid & (scores > options.score_threshold)
        flat = torch.where(possible, scores, -1.0).flatten()
        best, index = flat.topk(min(MAX_CANDIDATES, flat.shape[0]))
        labels, found = index % heads.num_classes, decoded.flatten(0, 1)[index]
        # Boxes of different classes do not overlap after a shift by their label.
        shift = labels.to(found)[:, None] * (max(self.size) + 1.0)
        kept = _kept(found + shift, best, options.nms_threshold)
        best, index = torch.where(kept, best, -1.0).topk(min(options.detections, best.shape[0]))
        return found[index], best, labels[index]


def _kept(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Whether non-maximum suppression keeps each of the boxes (N, 4): (N,) bool."""
    # Two boxes without area, which are kept: torch.export assumes that the result has at least two.
    scores = F.pad(scores, (0, 2), value=-2.0)
    kept = nms(F.pad(boxes, (0, 0, 0, 2)), scores, threshold)
    return (torch.zeros_like(scores).scatter(0, kept, torch.ones_like(kept, dtype=scores.dtype)) > 0)[:-2]


def _pool(align: MultiScaleRoIAlign, maps: list[Tensor], boxes: Tensor) -> Tensor:
    """`align` with as many boxes at every level: those of another level are of no size there, which costs little."""
    levels = align.map_levels([boxes])
    rois = torch.cat([torch.zeros_like(boxes[:, :1]), boxes], dim=1)
    pooled: Tensor | None = None
    for level, (m, scale) in enumerate(zip(maps, align.scales, strict=False)):
        own = (levels == level)[:, None]
        part = roi_align(m, rois * own, align.output_size, scale, align.sampling_ratio, aligned=align.aligned)
        part = torch.where(own[:, :, None, None], part, 0.0)
        pooled = part if pooled is None else pooled + part
    assert pooled is not None
    return pooled
