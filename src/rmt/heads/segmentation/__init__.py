"""Semantic segmentation: Semantic FPN, UPerNet, inference with sliding windows."""

from rmt.heads.segmentation.decode_heads import SemanticFPN, UPerNet
from rmt.heads.segmentation.losses import SegmentationLoss
from rmt.heads.segmentation.segmenter import HEADS
from rmt.heads.segmentation.sliding import InferenceOptions

__all__ = ["HEADS", "InferenceOptions", "SegmentationLoss", "SemanticFPN", "UPerNet"]
