"""Detectors and segmenters on top of the stages, and their model files."""

from rmt.heads.detection import RetinaNet, detector
from rmt.heads.model_files import build_from_metadata, file_facts, load_model, save_model
from rmt.heads.pyramid import Pyramid, build_pyramid
from rmt.heads.segmentation.segmenter import Segmenter, segmenter

__all__ = [
    "Pyramid",
    "RetinaNet",
    "Segmenter",
    "build_from_metadata",
    "build_pyramid",
    "detector",
    "file_facts",
    "load_model",
    "save_model",
    "segmenter",
]
