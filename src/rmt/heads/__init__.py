"""What sits on the stages: pyramid norms, detectors, segmentation heads."""

from rmt.heads.detection import detector
from rmt.heads.pyramid import Pyramid, build_pyramid
from rmt.heads.segmenter import Segmenter, segmenter

__all__ = ["Pyramid", "Segmenter", "build_pyramid", "detector", "segmenter"]
