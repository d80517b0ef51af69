"""Whether mosaic helps a detector in a run of minutes: the same run with and without it.

    python benchmarks/mosaic.py DATA WORK --seeds 0 1    # DATA: BCCD or a part of it, with lists to train and validate

Trains `rmt_pico` for four epochs of 2.8 passes with the sizes that the plan chooses for BCCD in five minutes, and
writes `mosaic.json`: the box AP of the last epoch on the validation images. With mosaic half of the samples are cut
from a 2 × 2 field of four photos, of the size of one, at a random place; a box of which less than 30 % is left is
dropped. Runs that WORK has already are not repeated.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import rmt.data.detection.transforms as transforms
from rmt.data.detection.dataset import Objects

HERE = Path(__file__).resolve().parent
LEAST_PART = 0.3  # of a box that has to be left in the mosaic
OPTIONS: dict[str, Any] = {
    "minutes": 0,
    "model": "rmt_pico",
    "workers": 0,
    "short-side": 192,
    "long-side": 256,
    "train-short-sides": (160, 192, 224),
    "fpn-channels": 48,
    "box-width": 192,
    "rois-per-image": 64,
    "proposals": 200,
    "anchor-scale": 4,
    "lr": 0.0015,
    "clip-grad": 5,
    "warmup-iterations": 50,
    "epochs": 4,
    "epoch-repeats": 2.8,
    "lr-steps": 3,
    "metric": "box_ap50",
}


class OneImage:
    """The objects of one image in place of those of a set."""

    def __init__(self, objects: Objects) -> None:
        self.found = objects

    def objects(self, index: int) -> Objects:
        return self.found


def use_mosaic(probability: float) -> None:
    """Changes the transform of training images."""
    single = transforms.DetectionTrainTransform.__call__

    def call(self: Any, image: Image.Image, index: int) -> Any:
        if torch.rand(()).item() >= probability:
            return single(self, image, index)
        photos, images = self.images, [index, *torch.randint(0, len(self.images), (3,)).tolist()]
        width, height = image.size
        field, boxes, labels = Image.new("RGB", (2 * width, 2 * height)), [], []
        for place, chosen in enumerate(images):
            photo, objects = photos.load(chosen) if place else image, photos.objects(chosen)
            left, top = place % 2 * width, place // 2 * height
            field.paste(photo.resize((width, height)), (left, top))
            scale = np.array([width / photo.width, height / photo.height] * 2, np.float32)
            boxes.append(objects.boxes * scale + np.array([left, top] * 2, np.float32))
            labels.append(objects.labels)
        x, y = (int(torch.randint(side // 4, 3 * side // 4, ())) for side in (width, height))
        whole = np.concatenate(boxes)
        cut = (whole - np.array([x, y] * 2, np.float32)).clip(0, [width, height] * 2).astype(np.float32)
        area, left_over = (np.prod(found[:, 2:] - found[:, :2], axis=1) for found in (whole, cut))
        kept = left_over > LEAST_PART * area
        self.images = OneImage(Objects(cut[kept], np.concatenate(labels)[kept], None))
        try:
            return single(self, field.crop((x, y, x + width, y + height)), index)
        finally:
            self.images = photos

    transforms.DetectionTrainTransform.__call__ = call  # type: ignore[method-assign]


def train(probability: float, arguments: list[str]) -> None:
    """In a process of its own: trains with mosaic."""
    from rmt.commands.cli import main as command

    if probability:
        use_mosaic(probability)
    sys.exit(command(arguments))


def last_row(run: Path) -> dict[str, str]:
    with (run / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if row["kind"] == "epoch"][-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    words = [word for name, value in OPTIONS.items() for word in (f"--{name}", *map(str, np.atleast_1d(value)))]
    runs = []
    for seed in args.seeds:
        for probability in (0.0, 0.5):
            run = args.work / f"mosaic-{probability:g}-{seed}"
            command = ["train", "finetune-detect", str(args.data), *words, "--seed", str(seed), "--output", str(run)]
            if not (run / "metrics.json").exists():
                subprocess.run([sys.executable, __file__, "--train", str(probability), *command], check=True)
            row, images = last_row(run), json.loads((run / "metrics.json").read_text())["images"]
            scores = {name: round(float(row[f"val_box_{name}"]), 2) for name in ("ap50", "ap")}
            runs.append({"mosaic": probability, "seed": seed, "updates": int(row["step"]), "images": images, **scores})
    seeds = " ".join(map(str, args.seeds))
    result = {"command": f"python benchmarks/mosaic.py DATA WORK --seeds {seeds}", "options": OPTIONS, "runs": runs}
    (HERE / "mosaic.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    train(float(sys.argv[2]), sys.argv[3:]) if sys.argv[1:2] == ["--train"] else main()
