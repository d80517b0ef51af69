"""Datasets, transforms and batches for training and evaluation."""

from rmt.data.image_loader import Batch, ImageLoader
from rmt.data.images import BadImage, read_image
from rmt.data.sets import ImageSet, Subset, hold_out, with_classes
from rmt.data.splits import open_evaluation_split, open_splits
from rmt.data.transforms import eval_transform, train_transform

__all__ = [
    "BadImage",
    "Batch",
    "ImageLoader",
    "ImageSet",
    "Subset",
    "eval_transform",
    "hold_out",
    "open_evaluation_split",
    "open_splits",
    "read_image",
    "train_transform",
    "with_classes",
]
