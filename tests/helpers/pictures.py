"""Small folders of images that tests of many parts share: classes told apart by colour, so a few steps learn them."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40), "yellow": (220, 200, 40)}


def make_folder(root: Path, *, classes: int = 3, train: int = 8, val: int = 4, size: int = 32) -> Path:
    """`root/train/CLASS/*.png` and `root/val/…` with that many noisy images per class. Returns `root`."""
    draw = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for name in sorted(COLOURS)[:classes]:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = draw.normal(0, 50, (size, size, 3))
                pixels = np.clip(np.array(COLOURS[name]) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root
