"""Tiny detectors, and images with objects for them."""

import torch

import rmt

NARROW = dict(fpn_channels=16)
NARROW_RCNN = NARROW | dict(box_fc_width=32, box_conv_width=16, mask_width=16, rois_per_image=32)
HEADS = ("retinanet", "mask_rcnn", "cascade_mask_rcnn")


def tiny(head: str, num_classes: int = 3, **kwargs):
    """A narrow detector on `rmt_pico`, the same weights at every call."""
    torch.manual_seed(0)
    narrow = NARROW if head == "retinanet" else NARROW_RCNN
    return rmt.detector(head, "rmt_pico", num_classes=num_classes, **narrow | kwargs)


def scene(height: int = 70, width: int = 90, boxes=((5, 5, 40, 30), (50, 10, 80, 60)), labels=(0, 2)):
    """An image of noise and its target; the masks fill their boxes."""
    generator = torch.Generator().manual_seed(height)
    masks = torch.zeros(len(boxes), height, width, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[y1:y2, x1:x2] = 1
    target = dict(
        boxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=masks,
    )
    return torch.rand(3, height, width, generator=generator), target


def scenes():
    """Two images of different, odd sizes, the second without an object."""
    first, second = scene(), scene(64, 45, (), ())
    return [first[0], second[0]], [first[1], second[1]]
