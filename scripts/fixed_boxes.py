"""What COCO's box AP is worth on a set: the score of answering every image with the same boxes, fitted on train.

    python scripts/fixed_boxes.py --data trees [--most 100]

The boxes are the centres of k-means clusters of all training boxes, in parts of the image; each is scored by how often
a training image has an object that overlaps it by 0.5 or more. Of k = 1, 2, 5, 10 … the k with the best AP50 on train
is taken. For sets of one class.
"""

import argparse
from pathlib import Path

import numpy as np

from rmt.data.detection.coco import CocoSet, find_split, open_coco
from rmt.tasks.detect.metrics import Found, Gathering

ROUNDS = 50


def parts(images: CocoSet) -> list[np.ndarray]:
    """Per image its boxes (n, 4) in parts of its width and height."""
    return [images.objects(i).boxes / np.tile(images.sizes[i][::-1], 2) for i in range(len(images))]


def clusters(boxes: np.ndarray, k: int) -> np.ndarray:
    """(k, 4) centres of k-means, begun at boxes drawn with a fixed seed."""
    centres = boxes[np.random.default_rng(0).permutation(len(boxes))[:k]]
    for _ in range(ROUNDS):
        nearest = np.abs(boxes[:, None] - centres[None]).sum(2).argmin(1)
        centres = np.stack([boxes[nearest == i].mean(0) if (nearest == i).any() else centres[i] for i in range(k)])
    return centres


def overlap(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU (n, m) of boxes (n, 4) and (m, 4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    shared = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def answer(images: CocoSet, boxes: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """COCO's figures, in percent, of the same boxes for every image."""
    order = np.argsort(-scores, kind="stable")
    gathering = Gathering(images)
    for i in range(len(images)):
        shown = (boxes[order] * np.tile(images.sizes[i][::-1], 2)).astype(np.float32)
        gathering.found[i] = Found(shown, np.zeros(len(order), np.int64), scores[order].astype(np.float32), None)
    return gathering.score().flat()


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("--data", type=Path, required=True, help="a COCO folder of one class")
    parser.add_argument("--most", type=int, default=100, help="boxes at most")
    args = parser.parse_args()
    train, val = (open_coco(*find_split(args.data, split), with_masks=False) for split in ("train", "val"))
    per_image = parts(train)
    every = np.concatenate(per_image)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for k in (k for k in (1, 2, 5, 10, 20, 50, 100) if k <= args.most):
        boxes = clusters(every, k)
        scores = np.mean([(overlap(boxes, own) >= 0.5).any(1) for own in per_image if len(own)], axis=0)
        reached = answer(train, boxes, scores)["box_ap50"]
        print(f"{k:4} boxes: AP50 {reached:.2f} % on train")
        if best is None or reached > best[0]:
            best = reached, boxes, scores
    assert best is not None
    figures = answer(val, *best[1:])
    print(f"val: AP {figures['box_ap']:.2f} %, AP50 {figures['box_ap50']:.2f} % with the best {len(best[1])} boxes")


if __name__ == "__main__":
    main()
