"""COCO's average precision, by faster-coco-eval: what was found in each image, gathered, and scored as COCO does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from rmt.data.detection.coco import CocoSet
from rmt.data.detection.rle import encode
from rmt.errors import RMTError
from rmt.extras import missing_extra
from rmt.training.distributed import processes

KINDS = {"bbox": "box", "segm": "mask"}
"""COCO's word for what is compared, and ours."""

#: COCO's twelve figures in its order: our name, and how its table calls them (title, IoU, area, detections per image).
FIGURES = {
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
class Found:
    """What a detector found in one image, in the picture's own pixels, best first."""

    boxes: np.ndarray  # (n, 4) float32: left, top, right, bottom
    labels: np.ndarray  # (n,) int64
    scores: np.ndarray  # (n,) float32
    masks: list[dict[str, Any]] | None  # n compressed RLEs

    @classmethod
    def of(cls, answer: Mapping[str, Tensor]) -> "Found":
        """One entry of a detector's answer; masks (n, 1, H, W) are boolean."""
        plain = {key: answer[key].float().cpu().numpy() for key in ("boxes", "scores")}
        masks = answer.get("masks")
        runs = None if masks is None else encode(masks[:, 0].cpu().numpy())
        return cls(plain["boxes"], answer["labels"].cpu().numpy(), plain["scores"], runs)

    def results(self, image_id: int, category_ids: Sequence[int | None]) -> list[dict[str, Any]]:
        """As COCO's results format has it; objects of a category without an id are left out."""
        listed = []
        for number, (box, label, score) in enumerate(
            zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True)
        ):
            if (category := category_ids[label]) is None:
                continue
            left, top, right, bottom = box
            entry: dict[str, Any] = {"image_id": image_id, "category_id": category, "score": score}
            entry["bbox"] = [left, top, right - left, bottom - top]
            if self.masks is not None:
                entry["segmentation"] = self.masks[number]
            listed.append(entry)
        return listed


@dataclass
class Gathering:
    """What was found in the images of a set so far, by their place in it."""

    images: CocoSet
    found: dict[int, Found] = field(default_factory=dict)

    def add(self, index: Tensor, answers: Sequence[Mapping[str, Tensor]]) -> None:
        """The answers to the images `index` (B,)."""
        for place, answer in zip(index.tolist(), answers, strict=True):
            self.found[place] = Found.of(answer)

    def from_all_processes(self) -> None:
        """Exchanges what each process found; afterwards every one has it all, each image once."""
        self.found = {place: found for part in processes.all_gather(self.found) for place, found in part.items()}

    def results(self) -> list[dict[str, Any]]:
        """Everything found, in COCO's results format, image by image."""
        ids, categories = self.images.image_ids.tolist(), self.images.category_ids
        return [entry for place in sorted(self.found) for entry in self.found[place].results(ids[place], categories)]

    def score(self) -> "Scores":
        """COCO's figures over the images that were answered. Raises `RMTError` when there is none."""
        if not self.found:
            raise RMTError(f"none of the {len(self.images)} images to judge on could be read")
        truth = self.images.ground_truth(sorted(self.found))
        kinds = ["bbox", "segm"] if self.images.with_masks else ["bbox"]
        return score(truth, self.results(), kinds)


@dataclass(frozen=True)
class Scores:
    """COCO's figures in 0…1, -1 where there is nothing to compare; by kind ("box", "mask")."""

    figures: dict[str, dict[str, float]]  # kind -> the names of FIGURES
    per_class: dict[str, dict[str, float]]  # kind -> class -> AP

    def flat(self) -> dict[str, float]:
        """`box_ap`, `box_ap50`, …, `mask_ap`, … in percent; 0 where there is nothing to compare."""
        return {
            f"{kind}_{name}": 100 * max(value, 0.0)
            for kind, figures in self.figures.items()
            for name, value in figures.items()
        }


def score(truth: Mapping[str, Any], results: Sequence[Mapping[str, Any]], kinds: Sequence[str]) -> Scores:
    """Compares results with the truth, both in COCO's format. `kinds`: "bbox", "segm".

    Raises `RMTError` when faster-coco-eval is missing.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ModuleNotFoundError as error:
        raise missing_extra("scoring", error) or error from None
    figures, per_class = {}, {}
    names = {category["id"]: category["name"] for category in truth["categories"]}
    known = COCO(dict(truth))
    for kind in kinds:
        # Without the box, the areas that sort results into small, medium and large are the masks' own.
        left_out = {"bbox": "segmentation", "segm": "bbox"}[kind]
        plain = [{key: value for key, value in entry.items() if key != left_out} for entry in results]
        judge = COCOeval_faster(known, known.loadRes(plain), kind, print_function=_silent)
        judge.run()
        figures[KINDS[kind]] = dict(zip(FIGURES, map(float, judge.stats), strict=False))
        precision = judge.eval["precision"][:, :, :, 0, -1]  # (IoU, recall, class), all areas, 100 detections
        per_class[KINDS[kind]] = {
            names[category]: _mean(precision[:, :, place]) for place, category in enumerate(judge.params.catIds)
        }
    return Scores(figures, per_class)


def table(
    scores: Mapping[str, Mapping[str, float]], per_class: Mapping[str, Mapping[str, float]] | None = None
) -> list[str]:
    """COCO's table, one block per kind; then, where given, AP per class."""
    lines = []
    for kind, figures in scores.items():
        lines.append(f"{kind}:")
        for name, (title, overlap, area, most) in FIGURES.items():
            head = f" {title} @[ IoU={overlap:<9} | area={area:>6s} | maxDets={most:>3d} ]"
            lines.append(f"{head} = {figures[name]:0.3f}")
    if per_class:
        kinds = list(per_class)
        lines.append(f"{'AP per class':32}" + "".join(f"{kind:>8}" for kind in kinds))
        for name in per_class[kinds[0]]:
            values = "".join(f"{per_class[kind][name]:>8.3f}" for kind in kinds)
            lines.append(f"{name:32}{values}")
    return lines


def _mean(precision: np.ndarray) -> float:
    counted = precision[precision > -1]
    return float(counted.mean()) if counted.size else -1.0


def _silent(*_: object) -> None:
    """The evaluator's own table is ours to print."""
