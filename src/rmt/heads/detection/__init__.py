"""Detectors on the RMT pyramid: RetinaNet, Mask R-CNN, Cascade Mask R-CNN, as the paper ran them (METHOD 6)."""

from rmt.heads.detection.detector import DETECTORS, detector
from rmt.heads.detection.networks import MaskRCNN, RetinaNet
from rmt.heads.detection.options import CascadeMaskRCNNOptions, DetectorOptions, MaskRCNNOptions, RetinaNetOptions

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
