"""RoI heads: a cascade of box and mask heads. Mask R-CNN is the cascade of one stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import box_iou, clip_boxes_to_image, roi_align
from torchvision.ops._utils import convert_boxes_to_roi_format
from torchvision.ops.poolers import LevelMapper

from rmt.errors import RMTError
from rmt.heads.detection.anchors import Matcher
from rmt.heads.detection.box_head import ROI_SIZE, BoxHead
from rmt.heads.detection.mask_head import MASK_ROI_SIZE, MaskHead, mask_loss, mask_targets
from rmt.heads.detection.options import MaskRCNNOptions
from rmt.heads.detection.postprocess import at_least_float32, filter_scores, nms

Target = dict[str, Tensor]


class MultiScaleRoIAlign(nn.Module):
    """RoIAlign of each box from the level for its size: ⌊4 + log₂(√area / 224)⌋, clamped (FPN paper, Eq. 1).

    torchvision's class of this name has no `aligned`.

    Args:
        output_size: height and width of the result.
        strides: of the levels, powers of two, finest first; further feature maps are not used.
        aligned: pixel centres are at half-integers.
        sampling_ratio: points per bin and side, 0 for as many as there are pixels.
    """

    def __init__(self, output_size: int, strides: Sequence[int], *, aligned: bool, sampling_ratio: int) -> None:
        super().__init__()
        self.output_size = output_size
        self.scales: list[float] = [1 / stride for stride in strides]
        self.aligned = aligned
        self.sampling_ratio = sampling_ratio
        self.map_levels = LevelMapper(strides[0].bit_length() - 1, strides[-1].bit_length() - 1)

    def forward(self, maps: Sequence[Tensor], boxes: list[Tensor]) -> Tensor:
        """Feature maps (B, C, hᵢ, wᵢ) and boxes (Rᵦ, 4) of each image, in pixels, to (Σ Rᵦ, C, size, size)."""
        # Under autocast the levels could differ in dtype; boxes need float32 in any case.
        dtype = torch.promote_types(maps[0].dtype, boxes[0].dtype)
        rois = convert_boxes_to_roi_format(boxes).to(dtype)
        levels = self.map_levels(boxes)
        pooled = rois.new_zeros(len(rois), maps[0].shape[1], self.output_size, self.output_size)
        # Levels without boxes are pooled too: their weights get a gradient of zero on every rank.
        for level, (m, scale) in enumerate(zip(maps, self.scales, strict=False)):
            (chosen,) = torch.where(levels == level)
            pooled[chosen] = roi_align(
                m.to(dtype), rois[chosen], self.output_size, scale, self.sampling_ratio, aligned=self.aligned
            )
        return pooled


@dataclass
class Samples:
    """Sampled RoIs of one image for the loss of one stage."""

    boxes: Tensor  # (R, 4)
    labels: Tensor  # (R,), K for background
    matched: Tensor  # (R,), index of the assigned ground-truth box; unused for background
    gt_boxes: Tensor  # (R, 4), that box
    is_gt: Tensor  # (R,) bool, whether the RoI is a ground-truth box itself


class RoIHeads(nn.Module):
    """Cascaded RoI heads: each stage classifies and refines the boxes of the stage before.

    Args:
        strides: of the levels that RoIs are pooled from.
        num_classes: number of classes K.
        options: of pooling, heads, sampling and postprocessing.
    """

    box_roi_pool: MultiScaleRoIAlign
    mask_roi_pool: MultiScaleRoIAlign

    def __init__(self, strides: Sequence[int], num_classes: int, options: MaskRCNNOptions) -> None:
        super().__init__()
        o = options
        self.num_classes = num_classes
        self.options = options
        self.box_roi_pool, self.mask_roi_pool = (
            MultiScaleRoIAlign(size, strides, aligned=o.aligned, sampling_ratio=o.sampling_ratio)
            for size in (ROI_SIZE, MASK_ROI_SIZE)
        )
        self.box_heads: nn.ModuleList = nn.ModuleList(BoxHead(num_classes, stds, o) for stds in o.box_stds)
        self.mask_heads: nn.ModuleList = nn.ModuleList(
            MaskHead(o.fpn_channels, num_classes, o.mask_convs, o.mask_width) for _ in o.stages if o.masks
        )
        self.matchers: list[Matcher] = [Matcher(iou, iou, low_quality=o.low_quality) for iou in o.stages]
        self.sampler = BalancedPositiveNegativeSampler(o.rois_per_image, o.positive_fraction)

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Feature maps (B, C, hᵢ, wᵢ) and proposals (Nᵦ, 4) to detections and {}; in training to [] and losses."""
        maps = list(features.values())
        if self.training:
            if targets is None:
                raise ValueError("targets are needed in training")
            return [], self._compute_loss(maps, proposals, image_shapes, targets)
        return self._detect(maps, proposals, image_shapes), {}

    def _compute_loss(
        self, maps: list[Tensor], proposals: list[Tensor], shapes: list[tuple[int, int]], targets: list[Target]
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        stages = len(self.box_heads)
        for stage, head in enumerate(cast(list[BoxHead], self.box_heads)):
            inputs = zip(proposals, targets, shapes, strict=True)
            samples = [self.select_training_samples(p, t, stage, shape) for p, t, shape in inputs]
            boxes = [s.boxes for s in samples]
            labels, gt_boxes = torch.cat([s.labels for s in samples]), torch.cat([s.gt_boxes for s in samples])
            logits, deltas = head(self.box_roi_pool(maps, boxes))
            classifier, box_reg = head.loss(logits, deltas, torch.cat(boxes), labels, gt_boxes.to(deltas.dtype))
            stage_losses = {"loss_classifier": classifier, "loss_box_reg": box_reg}
            if self.mask_heads:
                stage_losses["loss_mask"] = self._mask_loss(maps, samples, targets, stage)
            suffix = f"_{stage + 1}" if stages > 1 else ""
            losses |= {name + suffix: self.options.stage_weights[stage] * loss for name, loss in stage_losses.items()}
            if stage + 1 < stages:
                refined = self.refine_boxes(stage, logits, deltas, boxes, shapes, labels)
                # Every stage adds the ground-truth boxes itself.
                proposals = [r[~s.is_gt] for r, s in zip(refined, samples, strict=True)]
        return losses

    @torch.no_grad()
    def select_training_samples(self, proposals: Tensor, target: Target, stage: int, shape: tuple[int, int]) -> Samples:
        """Match proposals (N, 4) with the objects, add the ground-truth boxes, and draw samples for the loss."""
        gt_boxes, gt_labels = target["boxes"].to(proposals), target["labels"]
        if len(proposals) + len(gt_boxes) == 0:  # the whole image, because BatchNorm needs at least one RoI
            proposals = proposals.new_tensor([[0, 0, shape[1], shape[0]]])
        matched = torch.full((len(proposals),), -1, device=proposals.device)
        if len(gt_boxes) and len(proposals):
            matched = self.matchers[stage](box_iou(gt_boxes, proposals))
        boxes = torch.cat([gt_boxes, proposals])
        matched = torch.cat([torch.arange(len(gt_boxes), device=matched.device), matched])
        positive, negative = self.sampler([matched.clamp(min=-1) + 1])
        (chosen,) = torch.where((positive[0] | negative[0]).bool())
        matched = matched[chosen]
        labels = torch.full_like(matched, self.num_classes)
        labels[matched >= 0] = gt_labels[matched[matched >= 0]]
        matched = matched.clamp(min=0)
        return Samples(boxes[chosen], labels, matched, boxes[matched], chosen < len(gt_boxes))

    @torch.no_grad()
    def refine_boxes(
        self,
        stage: int,
        logits: Tensor,
        deltas: Tensor,
        boxes: list[Tensor],
        shapes: list[tuple[int, int]],
        labels: Tensor | None = None,
    ) -> list[Tensor]:
        """Move boxes (Rᵦ, 4) by the deltas of their class: the label if it is an object's, else the likeliest class."""
        classes = logits[:, : self.num_classes].argmax(dim=1)
        if labels is not None:
            classes = torch.where(labels < self.num_classes, labels, classes)
        class_deltas = deltas[torch.arange(len(deltas), device=deltas.device), classes]
        head = cast(BoxHead, self.box_heads[stage])
        refined = head.decode(class_deltas, torch.cat(boxes)).split([len(b) for b in boxes])
        return [clip_boxes_to_image(r, shape) for r, shape in zip(refined, shapes, strict=True)]

    def _mask_loss(self, maps: list[Tensor], samples: list[Samples], targets: list[Target], stage: int) -> Tensor:
        """Loss of the masks of the RoIs that are assigned to an object."""
        positives = [s.labels < self.num_classes for s in samples]
        boxes = [s.boxes[positive] for s, positive in zip(samples, positives, strict=True)]
        logits = at_least_float32(self.mask_heads[stage](self.mask_roi_pool(maps, boxes)))
        wanted = []
        for target, s, positive, b in zip(targets, samples, positives, boxes, strict=True):
            if "masks" not in target:
                raise RMTError("a target has no masks; give them, or build the detector with masks=False")
            wanted.append(mask_targets(target["masks"], s.matched[positive], b, logits.shape[-1]))
        labels = torch.cat([s.labels[positive] for s, positive in zip(samples, positives, strict=True)])
        return mask_loss(logits, labels, torch.cat(wanted).to(logits.dtype))

    def _detect(
        self, maps: list[Tensor], proposals: list[Tensor], shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        boxes, stage_scores = proposals, []
        average_logits = self.options.score_average == "logits"
        for stage, head in enumerate(cast(list[BoxHead], self.box_heads)):
            logits, deltas = head(self.box_roi_pool(maps, boxes))
            stage_scores.append(logits if average_logits else logits.softmax(dim=1))
            if stage + 1 < len(self.box_heads):
                boxes = self.refine_boxes(stage, logits, deltas, boxes, shapes)
        scores = torch.stack(stage_scores).mean(dim=0)
        scores = scores.softmax(dim=1) if average_logits else scores
        counts = [len(b) for b in boxes]
        decoded = head.decode(deltas, torch.cat(boxes)).split(counts)
        inputs = zip(decoded, scores.split(counts), shapes, strict=True)
        detections = [self._postprocess(b, s, shape) for b, s, shape in inputs]
        if self.mask_heads:
            self._add_masks(self.mask_roi_pool(maps, [d["boxes"] for d in detections]), detections)
        return detections

    def _postprocess(self, boxes: Tensor, scores: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Select detections among boxes (R, K, 4) and scores (R, K + 1): score threshold, NMS, the highest scores."""
        region, label = filter_scores(scores[:, : self.num_classes], self.options.score_threshold)
        candidates = clip_boxes_to_image(boxes[region, label], shape), label, scores[region, label]
        return nms(*candidates, threshold=self.options.nms_threshold, limit=self.options.detections)

    def _add_masks(self, pooled: Tensor, detections: list[dict[str, Tensor]]) -> None:
        """Add to the detections of each image `masks` (N, 1, m, m): probabilities in the box, averaged over stages."""
        labels = torch.cat([d["labels"] for d in detections])
        index = torch.arange(len(labels), device=labels.device)
        stages = [at_least_float32(head(pooled))[index, labels].sigmoid() for head in self.mask_heads]
        masks = torch.stack(stages).mean(dim=0)[:, None]
        for d, m in zip(detections, masks.split([len(d["labels"]) for d in detections]), strict=True):
            d["masks"] = m
