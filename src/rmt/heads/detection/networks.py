"""RetinaNet, Mask R-CNN and Cascade Mask R-CNN: the parts put together, with torchvision's two meta-architectures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchvision.models.detection as tv
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.ops import clip_boxes_to_image
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from rmt.errors import RMTError
from rmt.heads.detection.anchors import Anchors, BoxMatcher
from rmt.heads.detection.batching import Batching, place
from rmt.heads.detection.box_head import BoxHead
from rmt.heads.detection.fpn import FPN, ConvLevels
from rmt.heads.detection.masks import MaskHead
from rmt.heads.detection.options import MaskRCNNOptions, RetinaNetOptions
from rmt.heads.detection.retina_head import RetinaHead
from rmt.heads.detection.roi_heads import RoIHeads
from rmt.heads.detection.roi_pool import RoIPool
from rmt.heads.detection.rpn import RPN
from rmt.heads.detection.selection import above, best_boxes
from rmt.heads.pyramid import Pyramid

ROI_LEVELS = 4  # boxes are pooled from P2 … P5; P6 is for proposals


class Detector:
    """What our detectors have beyond torchvision's."""

    backbone: FPN
    num_classes: int
    head_name: str  # this and the next set by `detector`, for model files
    head_args: dict[str, Any]
    mask_threshold: float | None = None  # of a network that finds masks, see `place`
    training: bool

    def forward(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]] | None = None,
        sizes: Sequence[tuple[int, int]] | None = None,
    ) -> Any:
        """See `rmt.detector`. `sizes`: (height, width) in whose pixels to answer, instead of the images' own."""
        if self.training and targets is None:
            raise RMTError("a detector in training mode needs targets; call .eval() for detections")
        if sizes is not None and len(sizes) != len(images):
            raise RMTError(f"{len(images)} images but {len(sizes)} sizes")
        answer = super().forward(images, targets if self.training else None)  # type: ignore[misc]
        if self.training:
            return answer
        given = [(image.shape[-2], image.shape[-1]) for image in images]
        return place(answer, given, given if sizes is None else sizes, self.mask_threshold)

    @property
    def pyramid(self) -> Pyramid:
        return self.backbone.pyramid

    def load_backbone(self, source: str | Path | Mapping[str, Any]) -> list[str]:
        """Load a classifier, a detector's or a segmenter's backbone, ours or the authors'; see `Pyramid.load_official`.

        Returns:
            what kept its own values: the pyramid's norms, where the file is a classifier's.
        """
        return self.pyramid.load_official(source)


class RetinaNet(Detector, tv.RetinaNet):
    """torchvision's RetinaNet with our pyramid, head, matching and batching. See `rmt.detector` for the interface."""

    def __init__(self, pyramid: Pyramid, num_classes: int, options: RetinaNetOptions) -> None:
        o = options
        extra = ConvLevels(pyramid.channels[-1], o.fpn_channels, source=o.p6_source, relu=o.p6_relu)
        backbone = FPN(pyramid, o.fpn_channels, extra, extra_levels=2)
        scales = [o.octave_base * 2 ** (i / o.octave_scales) for i in range(o.octave_scales)]
        anchors = Anchors(scales, o.anchor_ratios, backbone.strides, rounded=o.round_anchors)
        num_anchors = anchors.num_anchors_per_location()[0]
        super().__init__(
            backbone,
            num_classes,
            anchor_generator=anchors,
            head=RetinaHead(o.fpn_channels, num_anchors, num_classes, convs=o.convs, normalise_by=o.normalise_by),
            proposal_matcher=BoxMatcher(0.5, 0.4, low_quality=0.0),
            score_thresh=o.score_threshold,
            nms_thresh=o.nms_threshold,
            detections_per_img=o.detections,
            topk_candidates=o.candidates,
        )
        self.transform = Batching(o.image_mean, o.image_std, o.size_divisor, num_classes)
        self.num_classes = num_classes
        self.options = options

    def postprocess_detections(
        self, head_outputs: dict[str, list[Tensor]], anchors: list[list[Tensor]], image_shapes: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Per image the best of every level's best. torchvision's own keeps boxes without area, see `best_boxes`."""
        answers = []
        for i, shape in enumerate(image_shapes):
            boxes, labels, scores = [], [], []
            levels = zip(head_outputs["cls_logits"], head_outputs["bbox_regression"], anchors[i], strict=True)
            for logits, deltas, anchor in levels:
                found = logits[i].sigmoid()
                row, label = above(found, self.score_thresh, self.topk_candidates)
                decoded = self.box_coder.decode_single(deltas[i][row], anchor[row])
                boxes.append(clip_boxes_to_image(decoded, shape))
                labels.append(label)
                scores.append(found[row, label])
            every = torch.cat(boxes), torch.cat(labels), torch.cat(scores)
            answers.append(best_boxes(*every, overlap=self.nms_thresh, limit=self.detections_per_img))
        return answers


class MaskRCNN(Detector, GeneralizedRCNN):
    """Mask R-CNN, or by its options Cascade Mask R-CNN, or either without masks. See `rmt.detector`."""

    def __init__(self, pyramid: Pyramid, num_classes: int, options: MaskRCNNOptions) -> None:
        o = options
        if not len(o.stages) == len(o.stage_weights) == len(o.box_stds) > 0:
            raise RMTError("stages, stage_weights and box_stds must be of one length, at least 1")
        backbone = FPN(pyramid, o.fpn_channels, LastLevelMaxPool(), extra_levels=1)
        anchors = Anchors(o.anchor_scales, o.anchor_ratios, backbone.strides, rounded=o.round_anchors)
        rpn = RPN(
            o.fpn_channels,
            anchors,
            pre_nms=o.pre_nms,
            post_nms=o.post_nms,
            nms_threshold=o.rpn_nms_threshold,
            batch=o.rpn_batch,
            beta=o.rpn_beta,
        )
        transform = Batching(o.image_mean, o.image_std, o.size_divisor, num_classes)
        super().__init__(backbone, rpn, _roi_heads(backbone.strides[:ROI_LEVELS], num_classes, o), transform)
        self.num_classes = num_classes
        self.mask_threshold = o.mask_threshold
        self.options = options


def _roi_heads(strides: list[int], num_classes: int, o: MaskRCNNOptions) -> RoIHeads:
    size, mask_size = 7, 14

    def pool(side: int) -> RoIPool:
        return RoIPool(side, strides, aligned=o.aligned, sampling_ratio=o.sampling_ratio)

    box_heads = [
        BoxHead(
            o.fpn_channels,
            num_classes,
            size=size,
            convs=o.box_convs,
            conv_width=o.box_conv_width,
            fcs=o.box_fcs,
            fc_width=o.box_fc_width,
            stds=stds,
            box_loss=o.box_loss,
            box_weight=o.box_weight,
        )
        for stds in o.box_stds
    ]
    mask_heads = [MaskHead(o.fpn_channels, num_classes, o.mask_convs, o.mask_width) for _ in box_heads]
    return RoIHeads(
        pool(size),
        box_heads,
        pool(mask_size) if o.masks else None,
        mask_heads if o.masks else [],
        thresholds=o.stages,
        weights=o.stage_weights,
        low_quality=o.low_quality,
        batch=o.rois_per_image,
        positive_fraction=o.positive_fraction,
        score_average=o.score_average,
        score_threshold=o.score_threshold,
        nms_threshold=o.nms_threshold,
        detections=o.detections,
    )
