"""Small COCO folders for the tests: flat colours, whose boxes and masks are known exactly."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rmt.data.detection.dataset import DetectionSet
from rmt.data.detection.layouts import coco_files, open_detection_split

CATEGORIES = [{"id": 0, "name": "disc"}, {"id": 7, "name": "bar"}, {"id": 90, "name": "never"}]  # from 0, with holes
CROWD = 3  # every so many images there is a crowd region


def rectangle(x: float, y: float, w: float, h: float) -> list[list[float]]:
    """A box as a polygon."""
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def annotation(number: int, image: int, category: int, box: tuple, **more: Any) -> dict[str, Any]:
    x, y, w, h = box
    area = dict(area=w * h, iscrowd=0, segmentation=rectangle(*box))
    return {"id": number, "image_id": image, "category_id": category, "bbox": [x, y, w, h], **area, **more}


def run_lengths(mask: np.ndarray) -> dict[str, Any]:
    """(h, w) bool as COCO's uncompressed RLE, counted by hand: columns first, background first."""
    runs, value, length = [], False, 0
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    return {"size": list(mask.shape), "counts": [*runs, length]}


def make_split(root: Path, split: str, images: int, seed: int, size: tuple[int, int] = (64, 96)) -> dict[str, Any]:
    """Writes `root/split2017/*.png` and `annotations/instances_split2017.json`: one to three rectangles an image.

    Red rectangles are discs, blue ones bars. Every second image stands upright. Every third has a crowd region, as RLE.
    """
    draw = np.random.default_rng(seed)
    folder = root / f"{split}2017"
    folder.mkdir(parents=True, exist_ok=True)
    listed, annotations = [], []
    for i in range(images):
        height, width = size if i % 2 == 0 else size[::-1]
        pixels = np.full((height, width, 3), 90, dtype=np.uint8)
        number = 100 + 3 * i
        for _ in range(int(draw.integers(1, 4))):
            w, h = (int(v) for v in draw.integers(12, 28, 2))
            x, y = int(draw.integers(0, width - w + 1)), int(draw.integers(0, height - h + 1))
            category = int(draw.choice([0, 7]))
            pixels[y : y + h, x : x + w] = (220, 40, 40) if category == 0 else (40, 40, 220)
            annotations.append(annotation(len(annotations) + 1, number, category, (x, y, w, h)))
        if i % CROWD == 0:
            mask = np.zeros((height, width), dtype=bool)
            mask[:8, :10] = True
            crowd = dict(iscrowd=1, segmentation=run_lengths(mask))
            annotations.append(annotation(len(annotations) + 1, number, 7, (0, 0, 10, 8), **crowd))
        name = f"{number:06d}.png"
        Image.fromarray(pixels).save(folder / name)
        listed.append({"id": number, "file_name": name, "height": height, "width": width})
    content = {"images": listed, "annotations": annotations, "categories": CATEGORIES}
    write_json(root / "annotations" / f"instances_{split}2017.json", content)
    return content


def make_coco(root: Path, train: int = 6, val: int = 3) -> Path:
    """A COCO folder as downloaded: train2017, val2017, annotations."""
    make_split(root, "train", train, seed=1)
    make_split(root, "val", val, seed=2)
    return root


def open_coco(images: Path, annotations: Path, *, with_masks: bool) -> DetectionSet:
    """The images of a COCO-format file, as `rmt evaluate --images IMAGES --annotations FILE` opens them."""
    return open_detection_split(coco_files((images, annotations)), with_masks=with_masks).images


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
