"""A small folder of images and masks that tests of segmentation share."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("background", "red", "blue")
COLOURS = ((40, 120, 40), (220, 30, 30), (30, 30, 220))


def picture(seed: int, height: int = 40, width: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (H, W, 3) and class indices (H, W): a red and a blue rectangle on green, with a little noise."""
    draw = np.random.default_rng(seed)
    mask = np.zeros((height, width), dtype=np.uint8)
    for label in (1, 2):
        top, left = draw.integers(height - 16), draw.integers(width - 16)
        mask[top : top + 16, left : left + 16] = label
    noise = draw.integers(-20, 20, size=(height, width, 3))
    return (np.array(COLOURS)[mask] + noise).clip(0, 255).astype(np.uint8), mask


def make_segments(root: Path, train: int = 12, val: int = 4, ade: bool = False, **sizes: int) -> Path:
    """`images/` and `masks/` (or ADE20K's names, labels counting from 1) with `train` and `val` pairs."""
    names = ("training", "validation") if ade else ("train", "val")
    for split, count, first in ((names[0], train, 0), (names[1], val, 100)):
        images, masks = root / "images" / split, root / ("annotations" if ade else "masks") / split
        images.mkdir(parents=True)
        masks.mkdir(parents=True)
        for number in range(count):
            pixels, mask = picture(first + number, **sizes)
            Image.fromarray(pixels).save(images / f"{number}.png")
            Image.fromarray(mask + ade).save(masks / f"{number}.png")
    (root / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    return root
