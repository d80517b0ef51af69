"""`rmt.load(path)` of a detector: the network with its classes and its preprocessing, ready for pictures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from rmt.data.detection.transforms import DetectionEvalTransform
from rmt.data.images import read_image
from rmt.device import autocast, choose_device, choose_precision
from rmt.errors import RMTError
from rmt.heads import load_model
from rmt.heads.detection import MaskRCNN, RetinaNet
from rmt.tasks.detect.metrics import Found


class DetectionPredictor:
    """A trained detector.

    Attributes:
        model: the detector in eval mode; see `rmt.detector`.
        classes: the K labels in the order of the network's.
        category_ids: per class the COCO category id of the data it was trained on.
        preprocessing: `size`, the short and the longest side in pixels.
        metadata: everything the file says of itself, recipe and metrics included.
    """

    def __init__(
        self, model: RetinaNet | MaskRCNN, metadata: dict[str, Any], device: torch.device, precision: str
    ) -> None:
        self.model = model
        self.metadata = metadata
        self.classes: tuple[str, ...] = tuple(metadata["classes"]) or tuple(map(str, range(model.num_classes)))
        self.preprocessing: dict[str, Any] = {"size": [800, 1333], **metadata["preprocessing"]}
        known = self.preprocessing.get("category_ids") or []
        self.category_ids: list[int | None] = list(known) or list(range(1, model.num_classes + 1))
        self.device = device
        self.precision = precision

    @property
    def masks(self) -> bool:
        """Whether it finds masks, too."""
        return getattr(self.model.options, "masks", False)

    @torch.inference_mode()
    def predict(self, images: str | Path | Image.Image | Sequence[str | Path | Image.Image]) -> list[Found]:
        """The objects in each image, best first, in the pixels of the image.

        `images` is one image or several, each a path or a PIL image. Raises BadImage (an RMTError) for an image that
        cannot be read.
        """
        several = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        view = DetectionEvalTransform(*self.preprocessing["size"])
        answers = []
        for image in several:  # one at a time: padding for a neighbour would change the answer
            picture = image.convert("RGB") if isinstance(image, Image.Image) else read_image(Path(image))
            tensor, _ = view(picture)
            with autocast(self.precision, self.device):
                (answer,) = self.model([tensor.to(self.device)], sizes=[(picture.height, picture.width)])
            answers.append(Found.of(answer))
        return answers


def load(path: str | Path, *, device: str = "auto", precision: str = "auto", image_size: int = 0) -> DetectionPredictor:
    """The detector in a `.safetensors` file, or the best one of a run folder.

    `image_size` replaces the file's short side (0), the longest side in proportion. Raises RMTError when the file is no
    detector of ours.
    """
    where = choose_device(device)
    arithmetic_used = choose_precision(precision, where)
    model, metadata = load_model(path, where)
    if not isinstance(model, RetinaNet | MaskRCNN):
        raise RMTError(f"{path} is no detector")
    predictor = DetectionPredictor(model, metadata, where, arithmetic_used)
    if image_size:
        if image_size < 32:
            raise RMTError(f"--image-size must be at least 32, not {image_size}")
        short, long = predictor.preprocessing["size"]
        predictor.preprocessing["size"] = [image_size, round(image_size * long / short)]
    return predictor
