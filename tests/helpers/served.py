"""Small networks of each task to serve, and pictures to send."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import rmt
from rmt.heads import save_model

NAMES = ("a", "<img src=x onerror=alert(1)>", "background")
SIZE = dict(size=[32, 32], mean=[0.5] * 3, std=[0.5] * 3, interpolation="bicubic", crop_pct=0.9)


def classifier(path: Path, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    model = rmt.create_model("rmt_test", num_classes=3)
    torch.nn.init.normal_(model.get_classifier().weight)
    rmt.save_checkpoint(model, path, classes=NAMES, preprocessing=SIZE)
    return path


def detector(path: Path) -> Path:
    torch.manual_seed(0)
    model = rmt.detector("mask_rcnn", "rmt_test", 3, fpn_channels=8, detections=8)
    save_model(model, path, classes=NAMES, preprocessing=dict(size=[32, 64], category_ids=[1, None, 3]))
    return path


def segmenter(path: Path) -> Path:
    torch.manual_seed(0)
    model = rmt.segmenter("semantic_fpn", "rmt_test", 3, head_args=dict(channels=8, fpn_channels=8))
    save_model(model, path, classes=NAMES, preprocessing=SIZE | dict(long_side=64, short_side=32))
    return path


def picture(seed: int = 0, size: tuple[int, int] = (40, 56), kind: str = "PNG") -> bytes:
    """The bytes of a picture of (height, width)."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), kind)
    return file.getvalue()
