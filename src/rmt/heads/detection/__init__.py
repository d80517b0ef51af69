"""Detectors on the RMT pyramid: RetinaNet, Mask R-CNN and Cascade Mask R-CNN (Sec. 4.2, Tables 2 to 4)."""

from rmt.heads.detection.build import DETECTORS, detector
from rmt.heads.detection.mask_rcnn import MaskRCNN
from rmt.heads.detection.options import CascadeMaskRCNNOptions, DetectorOptions, MaskRCNNOptions, RetinaNetOptions
from rmt.heads.detection.retinanet import RetinaNet

__all__ = [
    "DETECTORS",
    "CascadeMaskRCNNOptions",
    "DetectorOptions",
    "MaskRCNN",
    "MaskRCNNOptions",
    "RetinaNet",
    "RetinaNetOptions",
    "detector",
]
