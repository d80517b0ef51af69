"""COCO's average precision and recall, computed by faster-coco-eval."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmt.extras import missing_extra

KINDS = {"bbox": "box", "segm": "mask"}
"""COCO's iouType -> prefix of our metric names."""

#: COCO's twelve metrics in its order: our name, and columns of its table (title, IoU, area, detections per image).
METRICS = {
    "ap": ("Average Precision  (AP)", "0.50:0.95", "all", 100),
    "ap50": ("Average Precision  (AP)", "0.50", "all", 100),
    "ap75": ("Average Precision  (AP)", "0.75", "all", 100),
    "ap_small": ("Average Precision  (AP)", "0.50:0.95", "small", 100),
    "ap_medium": ("Average Precision  (AP)", "0.50:0.95", "medium", 100),
    "ap_large": ("Average Precision  (AP)", "0.50:0.95", "large", 100),
    "ar1": ("Average Recall     (AR)", "0.50:0.95", "all", 1),
    "ar10": ("Average Recall     (AR)", "0.50:0.95", "all", 10),
    "ar100": ("Average Recall     (AR)", "0.50:0.95", "all", 100),
    "ar_small": ("Average Recall     (AR)", "0.50:0.95", "small", 100),
    "ar_medium": ("Average Recall     (AR)", "0.50:0.95", "medium", 100),
    "ar_large": ("Average Recall     (AR)", "0.50:0.95", "large", 100),
}


@dataclass(frozen=True)
class CocoMetrics:
    """COCO's metrics in 0…1, -1 where there is nothing to compare; by kind ("box", "mask")."""

    figures: dict[str, dict[str, float]]  # kind -> name in METRICS -> value
    per_class: dict[str, dict[str, float]]  # kind -> class -> AP
    precision50: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    """kind -> class -> precision at IoU 0.5 at the recalls 0, 0.01, …, 1; -1 for a class without objects."""

    def percent(self) -> dict[str, float]:
        """`box_ap`, `box_ap50`, …, `mask_ap`, … in percent; 0 where there is nothing to compare."""
        return {
            f"{kind}_{name}": 100 * max(value, 0.0)
            for kind, figures in self.figures.items()
            for name, value in figures.items()
        }


def coco_metrics(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> CocoMetrics:
    """Compares results with the truth, both in COCO's formats. `kinds`: "bbox", "segm".

    Raises:
        RMTError: faster-coco-eval is not installed.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise missing_extra("scoring", error) or error from None
    figures, per_class, curves = {}, {}, {}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    annotations = COCO(dict(truth))
    for kind in kinds:
        # Without the box, the areas that sort results into small, medium and large are those of the masks.
        left_out = {"bbox": "segmentation", "segm": "bbox"}[kind]
        compared = [{key: value for key, value in entry.items() if key != left_out} for entry in results]
        evaluation = COCOeval_faster(annotations, annotations.loadRes(compared), kind, print_function=_silent)
        evaluation.run()
        figures[KINDS[kind]] = dict(zip(METRICS, map(float, evaluation.stats), strict=False))
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all areas, 100 detections
        per_class[KINDS[kind]] = {
            names[category]: _mean(precision[:, :, index]) for index, category in enumerate(evaluation.params.catIds)
        }
        curves[KINDS[kind]] = {
            names[category]: precision[0, :, index].tolist() for index, category in enumerate(evaluation.params.catIds)
        }
    return CocoMetrics(figures, per_class, curves)


def table(
    figures: Mapping[str, Mapping[str, float]], per_class: Mapping[str, Mapping[str, float]] | None = None
) -> list[str]:
    """COCO's table, one block per kind; then, if given, AP per class. "-" where there are no objects to compare."""
    lines = []
    for kind, values in figures.items():
        lines.append(f"{kind}:")
        for name, (title, overlap, area, most) in METRICS.items():
            head = f" {title} @[ IoU={overlap:<9} | area={area:>6s} | maxDets={most:>3d} ]"
            lines.append(f"{head} = {_text(values[name])}")
    if per_class:
        kinds = list(per_class)
        lines.append(f"{'AP per class':32}" + "".join(f"{kind:>8}" for kind in kinds))
        for name in per_class[kinds[0]]:
            lines.append(f"{name:32}" + "".join(f"{_text(per_class[kind][name]):>8}" for kind in kinds))
    missing = [
        *(v for of in figures.values() for v in of.values()),
        *(v for of in (per_class or {}).values() for v in of.values()),
    ]
    return [*lines, "-: there are no such objects in these images"] if min(missing, default=0) < 0 else lines


def _text(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"


def _mean(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else -1.0


def _silent(*_: object) -> None:
    """In place of `print`: COCO evaluation prints a table of its own."""
