"""`rmt.load(path)`: a trained classifier with its classes and its preprocessing, ready for images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from rmt.data.images import read_image
from rmt.data.transforms import eval_transform
from rmt.device import autocast, choose_device, choose_precision
from rmt.errors import RMTError
from rmt.model import load_model


@dataclass(frozen=True)
class Prediction:
    """One class of an image's ranking."""

    label: str
    probability: float
    index: int  # the class's number: the position among the logits


class Predictor:
    """A trained classifier.

    Attributes:
        model: the network in eval mode, images (B, 3, H, W) to logits (B, K).
        classes: the K labels in the order of the logits.
        preprocessing: size, mean, std, interpolation, crop_pct and pad_to, as `eval_transform` takes them.
        metadata: everything the file says of itself, recipe and metrics included.
    """

    def __init__(self, model: nn.Module, metadata: dict[str, Any], device: torch.device, precision: str) -> None:
        self.model = model
        self.metadata = metadata
        self.classes: tuple[str, ...] = tuple(metadata["classes"])
        self.preprocessing: dict[str, Any] = metadata["preprocessing"]
        self.num_classes = int(model.num_classes)  # type: ignore[arg-type]
        self.device = device
        self.precision = precision

    @torch.inference_mode()
    def predict(
        self,
        images: str | Path | Image.Image | Sequence[str | Path | Image.Image],
        top_k: int = 5,
        batch_size: int = 32,
    ) -> list[list[Prediction]]:
        """The `top_k` likeliest classes of each image, likeliest first.

        `images` is one image or several, each a path or a PIL image. Raises BadImage (an RMTError) for an image that
        cannot be read, and RMTError for a `top_k` below 1.
        """
        if top_k < 1:
            raise RMTError(f"top_k must be at least 1, not {top_k}")
        several = [images] if isinstance(images, str | Path | Image.Image) else list(images)
        transform = eval_transform(**self.preprocessing)
        answers: list[list[Prediction]] = []
        for start in range(0, len(several), batch_size):
            loaded = [_opened(image) for image in several[start : start + batch_size]]
            batch = torch.stack([transform(image) for image in loaded]).to(self.device)  # (B, 3, H, W)
            with autocast(self.precision, self.device):
                logits = self.model(batch)  # (B, K)
            top = logits.float().softmax(1).topk(min(top_k, logits.shape[1]))
            for shares, indices in zip(top.values.tolist(), top.indices.tolist(), strict=True):
                answers.append([Prediction(self._label(i), p, i) for p, i in zip(shares, indices, strict=True)])
        return answers

    def _label(self, index: int) -> str:
        return self.classes[index] if self.classes else str(index)


def load(path: str | Path, *, device: str = "auto", precision: str = "auto", image_size: int = 0) -> Predictor:
    """The classifier in a `.safetensors` file, or the best one of a run folder.

    `image_size` replaces the file's own (0). Raises RMTError when the file is no classifier of ours.
    """
    where = choose_device(device)
    arithmetic_used = choose_precision(precision, where)
    model, metadata = load_model(path, where)
    if image_size:
        if image_size < 32:
            raise RMTError(f"--image-size must be at least 32, not {image_size}")
        metadata["preprocessing"]["size"] = [image_size, image_size]
    return Predictor(model, metadata, where, arithmetic_used)


def _opened(image: str | Path | Image.Image) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else read_image(Path(image))
