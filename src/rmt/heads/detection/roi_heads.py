"""Heads on regions: a cascade of box heads and masks. Mask R-CNN's is the cascade of one stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler
from torchvision.ops import box_iou, clip_boxes_to_image

from rmt.errors import RMTError
from rmt.heads.detection.anchors import BoxMatcher
from rmt.heads.detection.box_head import BoxHead
from rmt.heads.detection.masks import MaskHead, mask_loss, mask_targets
from rmt.heads.detection.roi_pool import RoIPool
from rmt.heads.detection.rpn import at_least_float32
from rmt.heads.detection.selection import above, best_boxes

Target = dict[str, Tensor]
AVERAGES = ("logits", "probabilities")


@dataclass
class Samples:
    """Regions of one image that a stage learns from."""

    boxes: Tensor  # (R, 4)
    labels: Tensor  # (R,), K for background
    index: Tensor  # (R,), the ground-truth box each belongs to; any for background
    given: Tensor  # (R,) bool, the region is a ground-truth box itself


class RoIHeads(nn.Module):
    """Proposals to detections, by stages: each classifies the boxes and moves them, and the next starts from there.

    Args:
        box_pool, box_heads: RoIAlign, and one head per stage.
        mask_pool, mask_heads: the same for masks, or None and no heads for boxes alone.
        thresholds: overlap from which a region shows an object, per stage.
        weights: of each stage's losses.
        low_quality: each object takes the region that overlaps it most, if by this much (see `BoxMatcher`); or None.
        batch, positive_fraction: regions per image that a stage learns from, and how many of them may show objects.
        score_average: in testing, over the stages: "logits", or "probabilities".
        score_threshold, nms_threshold, detections: of the answers; the last per image.
    """

    def __init__(
        self,
        box_pool: RoIPool,
        box_heads: Sequence[BoxHead],
        mask_pool: RoIPool | None,
        mask_heads: Sequence[MaskHead],
        *,
        thresholds: Sequence[float],
        weights: Sequence[float],
        low_quality: float | None,
        batch: int,
        positive_fraction: float,
        score_average: str,
        score_threshold: float,
        nms_threshold: float,
        detections: int,
    ) -> None:
        super().__init__()
        if score_average not in AVERAGES:
            raise RMTError(f"score_average={score_average!r} is not one of {', '.join(AVERAGES)}")
        self.box_pool = box_pool
        self.box_heads = nn.ModuleList(box_heads)
        self.mask_pool = mask_pool
        self.mask_heads = nn.ModuleList(mask_heads)
        self.num_classes = box_heads[0].num_classes
        self.matchers = [BoxMatcher(t, t, low_quality=low_quality) for t in thresholds]
        self.weights = list(weights)
        self.sampler = BalancedPositiveNegativeSampler(batch, positive_fraction)
        self.score_average = score_average
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.detections = detections

    def stages(self) -> list[BoxHead]:
        return cast(list[BoxHead], list(self.box_heads))

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[Target] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        """Maps (B, C, hᵢ, wᵢ) and proposals (Nᵦ, 4) to detections and no losses, or in training the other way round."""
        maps = list(features.values())
        if self.training:
            if targets is None:
                raise ValueError("targets are needed in training")
            return [], self._losses(maps, proposals, image_shapes, targets)
        return self._detect(maps, proposals, image_shapes), {}

    def _losses(
        self, maps: list[Tensor], proposals: list[Tensor], shapes: list[tuple[int, int]], targets: list[Target]
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = {}
        for stage, head in enumerate(self.stages()):
            samples = [self.sample(p, t, stage, s) for p, t, s in zip(proposals, targets, shapes, strict=True)]
            boxes = [s.boxes for s in samples]
            logits, deltas = head(self.box_pool(maps, boxes))
            truth = torch.cat([_pick(t["boxes"], s) for t, s in zip(targets, samples, strict=True)])
            labels = torch.cat([s.labels for s in samples])
            classifier, box_reg = head.loss(logits, deltas, torch.cat(boxes), labels, truth.to(deltas.dtype))
            parts = {"loss_classifier": classifier, "loss_box_reg": box_reg}
            if self.mask_pool is not None:
                pooled = self.mask_pool(maps, [s.boxes[s.labels < self.num_classes] for s in samples])
                parts["loss_mask"] = self._mask_loss(pooled, samples, targets, stage)
            name = f"_{stage + 1}" if len(self.box_heads) > 1 else ""
            losses |= {key + name: self.weights[stage] * value for key, value in parts.items()}
            if stage + 1 < len(self.box_heads):
                moved = self.refine(stage, logits, deltas, boxes, shapes, labels)
                # The objects' own boxes are added by every stage afresh.
                proposals = [m[~s.given] for m, s in zip(moved, samples, strict=True)]
        return losses

    @torch.no_grad()
    def sample(self, proposals: Tensor, target: Target, stage: int, shape: tuple[int, int]) -> Samples:
        """Match proposals (N, 4) with the objects, add the objects' own boxes, draw what the stage learns from."""
        truth, truth_labels = target["boxes"].to(proposals), target["labels"]
        if len(proposals) + len(truth) == 0:  # nothing at all: the whole image, since BatchNorm needs a region
            proposals = proposals.new_tensor([[0, 0, shape[1], shape[0]]])
        index = torch.full((len(proposals),), -1, device=proposals.device)
        if len(truth) and len(proposals):
            index = self.matchers[stage](box_iou(truth, proposals))
        boxes = torch.cat([truth, proposals])
        index = torch.cat([torch.arange(len(truth), device=index.device), index])
        positive, negative = self.sampler([index.clamp(min=-1) + 1])
        (chosen,) = torch.where((positive[0] | negative[0]).bool())
        index = index[chosen]
        labels = torch.full_like(index, self.num_classes)
        shown = index >= 0
        labels[shown] = truth_labels[index[shown]]
        return Samples(boxes[chosen], labels, index.clamp(min=0), chosen < len(truth))

    @torch.no_grad()
    def refine(
        self,
        stage: int,
        logits: Tensor,
        deltas: Tensor,
        boxes: list[Tensor],
        shapes: list[tuple[int, int]],
        labels: Tensor | None = None,
    ) -> list[Tensor]:
        """Boxes (Rᵦ, 4) moved by the deltas of their class: the label where it is an object's, else the likeliest."""
        classes = logits[:, : self.num_classes].argmax(dim=1)
        if labels is not None:
            classes = torch.where(labels < self.num_classes, labels, classes)
        own = deltas[torch.arange(len(deltas), device=deltas.device), classes]
        moved = self.stages()[stage].decode(own, torch.cat(boxes)).split([len(b) for b in boxes])
        return [clip_boxes_to_image(m, shape) for m, shape in zip(moved, shapes, strict=True)]

    def _mask_loss(self, pooled: Tensor, samples: list[Samples], targets: list[Target], stage: int) -> Tensor:
        """Of the regions that show objects; `pooled` is theirs, image after image."""
        logits = at_least_float32(self.mask_heads[stage](pooled))
        labels, wanted = [], []
        for target, s in zip(targets, samples, strict=True):
            if "masks" not in target:
                raise RMTError("a target has no masks; give them, or build the detector with masks=False")
            shown = s.labels < self.num_classes
            labels.append(s.labels[shown])
            wanted.append(mask_targets(target["masks"], s.index[shown], s.boxes[shown], logits.shape[-1]))
        return mask_loss(logits, torch.cat(labels), torch.cat(wanted).to(logits.dtype))

    def _detect(
        self, maps: list[Tensor], proposals: list[Tensor], shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        boxes, votes = proposals, []
        for stage, head in enumerate(self.stages()):
            logits, deltas = head(self.box_pool(maps, boxes))
            votes.append(logits if self.score_average == "logits" else logits.softmax(dim=1))
            if stage + 1 < len(self.box_heads):
                boxes = self.refine(stage, logits, deltas, boxes, shapes)
        mean = torch.stack(votes).mean(dim=0)
        scores = mean.softmax(dim=1) if self.score_average == "logits" else mean
        counts = [len(b) for b in boxes]
        decoded = head.decode(deltas, torch.cat(boxes))
        found = [
            self.select(b, s, shape)
            for b, s, shape in zip(decoded.split(counts), scores.split(counts), shapes, strict=True)
        ]
        if self.mask_pool is not None:
            self._add_masks(self.mask_pool(maps, [f["boxes"] for f in found]), found)
        return found

    def select(self, boxes: Tensor, scores: Tensor, shape: tuple[int, int]) -> dict[str, Tensor]:
        """Of boxes (R, K, 4) and scores (R, K + 1) the likeliest, suppressed class by class, the best first."""
        region, label = above(scores[:, : self.num_classes], self.score_threshold)
        chosen = clip_boxes_to_image(boxes[region, label], shape)
        found = scores[region, label]
        return best_boxes(chosen, label, found, overlap=self.nms_threshold, limit=self.detections)

    def _add_masks(self, pooled: Tensor, found: list[dict[str, Tensor]]) -> None:
        """To each image's detections `masks` (N, 1, m, m): probabilities in the box, averaged over the stages."""
        labels = torch.cat([f["labels"] for f in found])
        every = torch.arange(len(labels), device=labels.device)
        heads = [at_least_float32(head(pooled))[every, labels].sigmoid() for head in self.mask_heads]
        masks = torch.stack(heads).mean(dim=0)[:, None]
        for f, m in zip(found, masks.split([len(f["labels"]) for f in found]), strict=True):
            f["masks"] = m


def _pick(boxes: Tensor, samples: Samples) -> Tensor:
    """The ground-truth box of each sample; for an image without objects the samples themselves, which do not count."""
    return boxes[samples.index] if len(boxes) else samples.boxes
