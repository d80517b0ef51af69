"""A baseline for COCO's box AP on a data set: the AP of predicting the same boxes, fitted on train, for every image.

    python scripts/fixed_boxes.py --data trees [--most 100]

The boxes are the centres of k-means clusters of all training boxes, relative to the size of the image. The score of a
box is the fraction of training images with an object of IoU 0.5 or more with it. Of k = 1, 2, 5, 10, … the k with the
highest AP50 on train is used. For data sets of one class.
"""

import argparse
from pathlib import Path

import numpy as np

from rmt.data.detection.coco import find_split, open_coco
from rmt.data.detection.dataset import DetectionSet
from rmt.inference.detect import Detections
from rmt.tasks.detect.evaluate import DetectEvaluator

ROUNDS = 50


def relative_boxes(images: DetectionSet) -> list[np.ndarray]:
    """Boxes (n, 4) of each image, relative to its width and height."""
    return [images.objects(i).boxes / np.tile(images.sizes[i][::-1], 2) for i in range(len(images))]


def clusters(boxes: np.ndarray, k: int) -> np.ndarray:
    """Cluster centres (k, 4) by k-means, initialised with boxes drawn with a fixed seed."""
    centres = boxes[np.random.default_rng(0).permutation(len(boxes))[:k]]
    for _ in range(ROUNDS):
        nearest = np.abs(boxes[:, None] - centres[None]).sum(2).argmin(1)
        centres = np.stack([boxes[nearest == i].mean(0) if (nearest == i).any() else centres[i] for i in range(k)])
    return centres


def box_iou(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """IoU (n, m) of boxes (n, 4) and (m, 4)."""
    low = np.maximum(one[:, None, :2], other[None, :, :2])
    high = np.minimum(one[:, None, 2:], other[None, :, 2:])
    intersection = (high - low).clip(0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (one, other)]
    return intersection / (areas[0][:, None] + areas[1][None] - intersection)


def evaluate(images: DetectionSet, boxes: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """COCO's metrics, in percent, of predicting the same boxes for every image."""
    order = np.argsort(-scores, kind="stable")
    evaluator = DetectEvaluator(images)
    for i in range(len(images)):
        scaled = (boxes[order] * np.tile(images.sizes[i][::-1], 2)).astype(np.float32)
        labels = np.zeros(len(order), np.int64)
        evaluator.detections[i] = Detections(scaled, labels, scores[order].astype(np.float32), None)
    return evaluator.compute()


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("--data", type=Path, required=True, help="a COCO folder of one class")
    parser.add_argument("--most", type=int, default=100, help="highest number of boxes")
    args = parser.parse_args()
    train, val = (open_coco(*find_split(args.data, split), with_masks=False) for split in ("train", "val"))
    per_image = relative_boxes(train)
    all_boxes = np.concatenate(per_image)
    best: tuple[float, np.ndarray, np.ndarray] | None = None
    for k in (k for k in (1, 2, 5, 10, 20, 50, 100) if k <= args.most):
        boxes = clusters(all_boxes, k)
        scores = np.mean([(box_iou(boxes, own) >= 0.5).any(1) for own in per_image if len(own)], axis=0)
        ap50 = evaluate(train, boxes, scores)["box_ap50"]
        print(f"{k:4} boxes: AP50 {ap50:.2f} % on train")
        if best is None or ap50 > best[0]:
            best = ap50, boxes, scores
    assert best is not None
    metrics = evaluate(val, *best[1:])
    print(f"val: AP {metrics['box_ap']:.2f} %, AP50 {metrics['box_ap50']:.2f} % with the best {len(best[1])} boxes")


if __name__ == "__main__":
    main()
