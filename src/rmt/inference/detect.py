"""Predictor of detection and instance segmentation: images to boxes, classes, scores and masks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rmt.data.detection.rle import encode
from rmt.data.detection.transforms import DetectionEvalTransform
from rmt.errors import RMTError
from rmt.heads import load_model
from rmt.heads.detection.options import DetectorOptions
from rmt.heads.detection.postprocess import paste_masks
from rmt.inference.drawing.boxes import MIN_SCORE, draw_boxes, labelled_boxes
from rmt.inference.explain import Subject
from rmt.inference.explain.subject import Point
from rmt.inference.exported import ExportedRuntime
from rmt.inference.exported_detector import ExportedDetector
from rmt.inference.predictor import Predictor, checked_size
from rmt.inference.results import ImageResult
from rmt.inference.runtime import Runtime
from rmt.model.metadata import MAX_SIDE

__all__ = ["DetectPredictor", "Detections"]

Sample = tuple[Tensor, tuple[int, int]]
"""A resized image, uint8 (3, h, w), and the height and width of the original."""


@dataclass(frozen=True)
class Detections:
    """The n objects that a detector found in one image, highest score first.

    Objects with low scores are included. `found.boxes[found.scores >= predictor.threshold]` leaves them out.

    Attributes:
        boxes: (n, 4) float32: left, top, right, bottom in pixels of the image.
        labels: (n,) int64: indices into the predictor's `classes`.
        scores: (n,) float32: 0 to 1.
        masks: for each object COCO's compressed run lengths, `{"size": [height, width], "counts": text}`, of the size
            of the image; None if the network predicts no masks. `pycocotools.mask.decode` makes arrays of them.
        size: height and width of the image in pixels.
    """

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: list[dict[str, Any]] | None
    size: tuple[int, int] = (0, 0)

    @classmethod
    def from_output(
        cls, output: Mapping[str, Tensor], size: tuple[int, int], threshold: float | None = None
    ) -> "Detections":
        """Returns the objects in one entry of a detector's output.

        Args:
            output: `boxes` (n, 4), `labels` (n,), `scores` (n,), and `masks` as the network returns them with
                `paste=False`.
            size: height and width of the image in pixels.
            threshold: probability from which a pixel belongs to a mask, ½ unless given.
        """
        boxes, scores = (output[key].float().cpu().numpy() for key in ("boxes", "scores"))
        runs = None
        if "masks" in output:  # pasted one by one: together those of a photograph of 50 megapixels take gigabytes
            least = 0.5 if threshold is None else threshold
            objects = (slice(i, i + 1) for i in range(len(boxes)))
            pasted = (paste_masks(output["masks"][i], output["boxes"][i], size, least) for i in objects)
            runs = [encode(mask[:, 0].cpu().numpy())[0] for mask in pasted]
        return cls(boxes, output["labels"].cpu().numpy(), scores, runs, size)

    def to_coco(self, category_ids: Sequence[int | None]) -> list[dict[str, Any]]:
        """Returns the objects in COCO's results format, without the image's id.

        `bbox` is left, top, width, height in pixels.

        Args:
            category_ids: COCO's category id of each class. Objects whose class has None are left out.
        """
        results = []
        for number, (left, top, right, bottom) in enumerate(self.boxes.tolist()):
            if (category := category_ids[int(self.labels[number])]) is None:
                continue
            box = [left, top, right - left, bottom - top]
            entry: dict[str, Any] = {"category_id": category, "score": float(self.scores[number]), "bbox": box}
            if self.masks is not None:
                entry["segmentation"] = self.masks[number]
            results.append(entry)
        return results


class DetectionSample(DetectionEvalTransform):
    """An image to the resized image, uint8 (3, h, w), and the height and width that it had."""

    def __call__(self, image: Image.Image) -> Sample:  # type: ignore[override]
        return super().__call__(image)[0], (image.height, image.width)


class DetectPredictor(Predictor):
    """A trained detector. `predict(images)` returns `Detections` for each image.

    `preprocessing["size"]` has the shorter and the longest side to which images are resized, in pixels. Boxes and masks
    are those of the images as they were given. The methods `result` and `show` take a `threshold`.

    Attributes:
        category_ids: for each class the COCO category id of the data it was trained on.
    """

    task = "detect"
    batch_size = 1  # padding to the size of another image would change the result
    load_network: ClassVar[Callable[..., tuple[nn.Module, dict[str, Any]]]] = staticmethod(load_model)
    has_pictures = True
    show_options: ClassVar[tuple[str, ...]] = ("threshold",)

    def __init__(self, runtime: Runtime, metadata: dict[str, Any]) -> None:
        super().__init__(runtime, metadata)
        self.preprocessing: dict[str, Any] = {"size": [800, 1333], **metadata["preprocessing"]}
        known = self.preprocessing.get("category_ids") or range(1, runtime.num_classes + 1)
        self.category_ids: list[int | None] = list(known)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", precision: str = "auto", image_size: int = 0) -> Self:
        """Reads a model file, see `Predictor.load`.

        Args:
            path, device, precision: see `Predictor.load`.
            image_size: shorter side of the images in pixels; the longest side changes in proportion. 0: as in the file.
        Raises:
            RMTError: as `Predictor.load`, or `image_size` is below 32 or above the largest size of a file.
        """
        predictor = super().load(path, device=device, precision=precision)
        if image_size:
            short, long = predictor.preprocessing["size"]
            longest = min(round(checked_size(image_size) * long / short), MAX_SIDE)
            predictor.preprocessing["size"] = [image_size, longest]
        return predictor

    @classmethod
    def wrap_exported(cls, runtime: ExportedRuntime, metadata: dict[str, Any]) -> Runtime:
        return ExportedDetector(runtime, metadata)

    @property
    def masks(self) -> bool:
        """Whether the network predicts masks."""
        options: DetectorOptions = self.model.options  # type: ignore[assignment]
        return options.predicts_masks

    def transform(self) -> "DetectionSample":
        """Returns the function from an RGB image to the resized image, uint8 (3, h, w), and its (height, width)."""
        return DetectionSample(*self.preprocessing["size"])

    def run(self, batch: list[Sample]) -> list[Detections]:  # type: ignore[override]
        """Returns the objects in each image of a batch, a list of what `transform` returns."""
        sizes = [size for _, size in batch]
        output = self.runtime([image for image, _ in batch], sizes=sizes, paste=False)
        threshold: float | None = self.model.mask_threshold  # type: ignore[assignment]
        return [Detections.from_output(one, size, threshold) for one, size in zip(output, sizes, strict=True)]

    def normalized(self, batch: list[Sample]) -> Iterator[Tensor]:
        normalize: Any = self.model.transform.normalize  # type: ignore[union-attr]
        for image, _ in batch:
            yield normalize(image.to(self.device))[None]

    def subject(self, photo: Image.Image, at: Point | None, target: str | None) -> Subject:
        """The highest score of a class, or of the objects whose boxes contain the point, as a decision about a box."""
        network = self.backbone()
        (found,) = self.predict_batch([photo])
        number = _chosen(found, at, None if target is None else self.class_index(target))
        image = self.transform()(photo)[0].to(self.device)
        scale = np.array([image.shape[2] / photo.width, image.shape[1] / photo.height] * 2, dtype=np.float32)
        model: Any = self.model
        pixels = image[None].float() / 255
        mean = torch.tensor(model.transform.image_mean, device=self.device).view(3, 1, 1)
        subject = Subject(
            photo=photo,
            view=(0, 0, photo.width, photo.height),
            network=network,
            pixels=pixels,
            baseline=mean.expand_as(pixels),
            backbone_input=model.transform([image])[0].tensors,
            size=(image.shape[1], image.shape[2]),
            score=None,
            decision=f"no object with a score of at least {self.threshold:g}",
            target="",
        )
        if number is None:
            return subject
        box, label = found.boxes[number] * scale, int(found.labels[number])
        region = np.zeros(subject.size, dtype=bool)
        left, top, right, bottom = (int(side) for side in box.round())
        region[top : max(bottom, top + 1), left : max(right, left + 1)] = True
        objects = labelled_boxes(
            found.boxes[number][None], found.labels[number][None], None, self.classes, found.scores[number][None], 0
        )
        return replace(
            subject,
            score=lambda images: model.class_logits(list(images), torch.from_numpy(box).to(self.device), label),
            decision=f"{self.classes[label]} {found.scores[number]:.2f}",
            target=self.classes[label],
            region=region,
            draw=partial(draw_boxes, photo, objects),
        )

    @property
    def threshold(self) -> float:
        """The score that gave the best F1 on the validation images of the run; 0.5 if the file does not say."""
        suggested = self.metadata["metrics"].get("threshold", {})
        score = suggested.get("score") if isinstance(suggested, dict) else None
        return float(score) if isinstance(score, int | float) else MIN_SCORE

    def show(  # type: ignore[override]
        self, prediction: Detections, photo: Callable[[], Image.Image], *, threshold: float | None = None
    ) -> ImageResult:
        """Returns what `rmt predict` shows of an image: all objects as values, those above a score in text and picture.

        Args:
            prediction: the objects.
            photo: returns the image.
            threshold: lowest score of an object in text and picture, 0 to 1; by default the property `threshold`.
        Raises:
            RMTError: `threshold` is not in 0 to 1.
        """
        threshold = self.threshold if threshold is None else check_threshold(threshold)
        found = prediction
        shown = [
            f"{self.classes[label]} {score:.2f}"
            for label, score in zip(found.labels, found.scores, strict=True)
            if score >= threshold
        ]
        text = ", ".join(shown) or f"no object with a score of at least {threshold:g}"
        height, width = found.size
        values = {"width": width, "height": height, "objects": found.to_coco(self.category_ids)}

        def draw() -> dict[str, Image.Image]:
            boxes = labelled_boxes(
                found.boxes, found.labels, found.masks, self.classes, scores=found.scores, threshold=threshold
            )
            return {"picture": draw_boxes(photo(), boxes)}

        return ImageResult(text, values, draw)

    def document(self, results: Sequence[tuple[Path, ImageResult]]) -> dict[str, Any]:
        """All objects of all images in COCO's annotation format, with images and categories."""
        pairs = zip(self.category_ids, self.classes, strict=True)
        content: dict[str, Any] = {
            "images": [],
            "annotations": [],
            "categories": [{"id": number, "name": name} for number, name in pairs if number is not None],
        }
        for number, (image, result) in enumerate(results, start=1):
            size = {key: result.values[key] for key in ("width", "height")}
            content["images"].append({"id": number, "file_name": str(image), **size})
            for entry in result.values["objects"]:
                _, _, width, height = entry["bbox"]
                ids = {"id": len(content["annotations"]) + 1, "image_id": number}
                content["annotations"].append({**ids, **entry, "iscrowd": 0, "area": width * height})
        return content


def _chosen(found: Detections, at: Point | None, label: int | None) -> int | None:
    """The index of the object to explain; None if there is none. The objects are in the order of their scores."""
    fits = np.ones(len(found.scores), dtype=bool) if label is None else found.labels == label
    if at is not None:
        left, top, right, bottom = found.boxes.T
        fits &= (left <= at[0]) & (at[0] < right) & (top <= at[1]) & (at[1] < bottom)
    return int(fits.argmax()) if fits.any() else None


def check_threshold(threshold: float) -> float:
    """Returns the score from which objects are shown. Raises RMTError unless it is in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise RMTError(f"--threshold must lie in [0, 1], not {threshold:g}")
    return threshold
