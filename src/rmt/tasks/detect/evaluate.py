"""Evaluation of detectors: COCO's average precision and recall."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmt.data.detection.dataset import DetectionSet
from rmt.data.detection.layouts import coco_files, detection_layout, open_detection_split
from rmt.data.sets import EvaluatedPart, EvaluationSplit, evenly_spread
from rmt.data.split_names import Split
from rmt.errors import RMTError
from rmt.inference.detect import Detections, DetectPredictor
from rmt.tasks.detect.data import eval_loader
from rmt.tasks.detect.metrics import CocoMetrics, coco_metrics, table
from rmt.terminal import plural
from rmt.training.distributed import processes
from rmt.training.evaluation_facts import evaluation_facts, run_hold_out, unreadable_lines
from rmt.training.evaluator import Evaluator, evaluate


class DetectEvaluator(Evaluator):
    """Collects the detections of an image set; COCO's metrics are computed from them at the end.

    Attributes:
        detections: by image index.
        metrics: what `compute` computed last.
    """

    metrics: CocoMetrics

    def __init__(self, images: DetectionSet) -> None:
        super().__init__(len(images))
        self.images = images
        self.detections: dict[int, Detections] = {}
        self.metrics = CocoMetrics({}, {})

    def update_metrics(self, network: Callable[..., Any], batch: dict[str, Any]) -> None:
        indices = batch["index"].tolist()
        sizes = [tuple(size) for size in self.images.sizes[indices].tolist()]
        outputs = network(batch["image"], sizes=sizes, paste=False)
        for index, output, size in zip(indices, outputs, sizes, strict=True):
            self.detections[index] = Detections.from_output(output, size)

    def require_images(self) -> None:
        self.num_read: int = len(self.detections)
        super().require_images()

    def coco_results(self) -> list[dict[str, Any]]:
        """All detections in COCO's results format, image by image."""
        ids, categories = self.images.image_ids.tolist(), self.images.category_ids
        found = [(ids[index], self.detections[index].to_coco(categories)) for index in sorted(self.detections)]
        return [{"image_id": image, **entry} for image, entries in found for entry in entries]

    def coco_metrics(self) -> CocoMetrics:
        """The metrics over the images that could be read, of all processes. Raises RMTError when there is none."""
        self.require_images()
        for detections in processes.all_gather(self.detections):
            self.detections |= detections
        truth = self.images.ground_truth(sorted(self.detections))
        return coco_metrics(truth, self.coco_results(), ["bbox", "segm"] if self.images.with_masks else ["bbox"])

    def compute(self) -> dict[str, float]:
        """See `CocoMetrics.percent`."""
        self.metrics = self.coco_metrics()
        return self.metrics.percent()

    def reset(self) -> None:
        super().reset()
        self.detections = {}


def open_evaluation(
    metadata: dict[str, Any], data: str, split: Split | None = None, *, with_masks: bool = False, boxes: str = ""
) -> EvaluationSplit[DetectionSet]:
    """Opens the images that a model file with this metadata is evaluated on; see `open_detection_split`.

    `boxes` is the form of the boxes instead of that in the run.
    """
    held = run_hold_out(metadata, data=data)
    crowd = counts_crowd(metadata)
    layout = detection_layout(data, boxes or box_form(metadata))
    return open_detection_split(layout, with_masks=with_masks, crowd_as_objects=crowd, split=split, held=held)


def counts_crowd(metadata: dict[str, Any]) -> bool:
    """Whether the run that wrote a model file took crowd regions for objects."""
    return bool(metadata["recipe"].get("crowd_as_objects"))


def box_form(metadata: dict[str, Any]) -> str:
    """The form in which the run that wrote a model file read boxes."""
    return str((metadata.get("recipe") or {}).get("boxes") or "auto")


def evaluate_checkpoint(
    checkpoint: str | Path,
    data: str,
    *,
    images: Path | None = None,
    annotations: Path | None = None,
    boxes: str = "",
    split: Split | None = None,
    max_images: int | None = None,
    image_size: int = 0,
    device: str = "auto",
    precision: str = "auto",
    workers: int = 2,
    predictor: DetectPredictor | None = None,
) -> dict[str, Any]:
    """Evaluates a detector on the validation split of the folder `data` or on `split` of it, or on `annotations`.

    If its run held images out of the same data, these are evaluated; of more than `max_images` images, so many, evenly
    spread. The data's classes are matched with the checkpoint's by name. `boxes` is the form of the boxes in a
    COCO-format file; empty: that of the run. `predictor` is that of the checkpoint if it is loaded, and is used
    as it is.

    Returns images (their number), figures (kind -> name -> 0…1, see `METRICS`), per_class (kind -> class -> AP), notes,
    unreadable (name -> reason), judged (see `evaluation_facts`) and results, in COCO's results format. Raises RMTError.
    """
    if bool(images) != bool(annotations) or bool(data) == bool(annotations):
        raise RMTError("give --data FOLDER, or --images FOLDER with --annotations FILE.json")
    if split and not data:
        raise RMTError("--split goes with --data; an annotation file (--annotations) is evaluated as a whole")
    if predictor is None:
        predictor = DetectPredictor.load(checkpoint, device=device, precision=precision, image_size=image_size)
    part: EvaluatedPart
    if images and annotations:
        layout = coco_files((images, annotations), boxes=boxes or box_form(predictor.metadata))
        held = run_hold_out(predictor.metadata, images=images, annotations=annotations)
        divided = not predictor.metadata["recipe"].get("val_annotations") if held else False
        found, part = open_detection_split(
            layout,
            with_masks=predictor.masks,
            crowd_as_objects=counts_crowd(predictor.metadata),
            held=held if divided else None,
        )
        if part == "all":
            by_path = {**predictor.metadata, "data": None}
            part = "train" if run_hold_out(by_path, images=images, annotations=annotations) else "listed"
    else:
        found, part = open_evaluation(predictor.metadata, data, split, with_masks=predictor.masks, boxes=boxes)
    if max_images is not None:
        found = found.subset(evenly_spread(len(found), max_images))
    evaluator = DetectEvaluator(found.with_classes(predictor.classes))
    loader = eval_loader(evaluator.images, predictor.preprocessing, workers=workers)
    evaluate({"model": evaluator}, {"model": predictor.runtime}, loader, predictor.device)
    metrics = evaluator.coco_metrics()
    return {
        "images": len(evaluator.detections),
        "figures": metrics.figures,
        "per_class": metrics.per_class,
        "notes": evaluator.images.notes,
        "unreadable": evaluator.unreadable,
        "judged": evaluation_facts(checkpoint, predictor.metadata, data or str(annotations), part),
        "results": evaluator.coco_results(),
    }


def describe(result: dict[str, Any], *, per_class: bool = False) -> list[str]:
    """COCO's table, with `per_class` also AP per class, and what was skipped."""
    lines = [
        *table(result["figures"], result["per_class"] if per_class else None),
        f"({plural(result['images'], 'image')})",
    ]
    return [*lines, *result["notes"], *unreadable_lines(result["unreadable"])]
