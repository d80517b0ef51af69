"""Detectors and segmenters on top of the stages, and their model files."""

from rmt.heads.detection import detector
from rmt.heads.model_files import file_facts, load_model, save_model
from rmt.heads.pyramid import Pyramid, build_pyramid
from rmt.heads.segmentation.segmenter import Segmenter, segmenter

__all__ = ["Pyramid", "Segmenter", "build_pyramid", "detector", "file_facts", "load_model", "save_model", "segmenter"]
