"""Multiply-accumulates of a detector or segmenter, by PyTorch's FLOP counter."""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from rmt.heads.detection import MaskRCNN, RetinaNet
from rmt.heads.detection.box_head import ROI_SIZE
from rmt.heads.detection.mask_head import MASK_ROI_SIZE
from rmt.heads.segmentation.segmenter import Segmenter

PROPOSALS, DETECTIONS = 1000, 100
"""Regions of one image that box heads and mask heads are counted for: the most there are in evaluation."""


class Cost(NamedTuple):
    """Multiply-accumulates of one image: all, and those of convolutions and linear layers alone.

    The second is what the paper counts for detectors and segmenters (Tables 2 to 5), by MMCV's counter, which sees the
    layers and not the two products of an attention.
    """

    macs: int
    layer_macs: int


def count_macs(model: RetinaNet | MaskRCNN | Segmenter, height: int, width: int) -> Cost:
    """Count one image of height × width; nothing is computed but shapes.

    Two-stage detectors are counted with 1,000 proposals in every box head and 100 objects in every mask head, as
    MMDetection does it. Elementwise operations, pooling and non-maximum suppression are not counted.
    """
    meta = copy.deepcopy(model).to("meta").eval()
    image = torch.empty(1, getattr(meta.pyramid.backbone, "in_chans", 3), height, width, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if isinstance(meta, Segmenter):
            meta(image)
        else:
            _run_detector(meta, image)
    products = sum(
        flops
        for op, flops in counter.get_flop_counts()["Global"].items()
        if op in (torch.ops.aten.bmm, torch.ops.aten.baddbmm)
    )
    total = counter.get_total_flops()
    return Cost(total // 2, (total - products) // 2)


def _run_detector(model: RetinaNet | MaskRCNN, image: torch.Tensor) -> None:
    """Every layer once. The whole detector cannot run without values: the number of its boxes depends on them."""
    maps = list(model.backbone(image).values())
    if isinstance(model, RetinaNet):
        model.head(maps)
        return
    heads: Any = model.roi_heads
    model.rpn.head(maps)
    channels = maps[0].shape[1]
    for parts, count, size in ((heads.box_heads, PROPOSALS, ROI_SIZE), (heads.mask_heads, DETECTIONS, MASK_ROI_SIZE)):
        for head in cast(Iterable[nn.Module], parts):
            head(torch.empty(count, channels, size, size, device="meta"))
