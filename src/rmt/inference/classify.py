"""Predictor of image classification: images to ranked classes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from rmt.data.transforms import IMAGENET_MEAN, IMAGENET_STD, ImageTransform, Normalize, eval_transform, shown_part
from rmt.errors import RMTError
from rmt.inference.explain import Subject
from rmt.inference.explain.subject import Point
from rmt.inference.exported import ExportedRuntime
from rmt.inference.inputs import ImageLike
from rmt.inference.predictor import Predictor, checked_size
from rmt.inference.results import ImageResult
from rmt.inference.runtime import Runtime
from rmt.model import RMT, load_model
from rmt.model.timm_networks import resize

__all__ = ["ClassifyPredictor", "Prediction"]


@dataclass(frozen=True)
class Prediction:
    """One class of an image's ranking.

    Attributes:
        label: the name of the class; its index as text where the file has no names.
        probability: of the softmax over all classes, 0…1.
        index: the position of the class among the logits, from 0.
    """

    label: str
    probability: float
    index: int


_TRANSFORM = ("size", "mean", "std", "interpolation", "crop_pct", "pad_to")


class ClassifyPredictor(Predictor):
    """A trained classifier. `predict(images, top_k=5)` returns a list of `Prediction` for each image.

    `preprocessing` has the size of the images, (height, width), in pixels; `mean` and `std` of RGB in 0…1;
    `interpolation`; and, if the file has them, `crop_pct` and `pad_to`.
    """

    task = "classify"
    load_network: ClassVar[Callable[..., tuple[nn.Module, dict[str, Any]]]] = staticmethod(load_model)

    def __init__(self, runtime: Runtime, metadata: dict[str, Any]) -> None:
        super().__init__(runtime, metadata)
        defaults = {"mean": list(IMAGENET_MEAN), "std": list(IMAGENET_STD)}
        given = {key: value for key, value in self.preprocessing.items() if key in _TRANSFORM}
        self.preprocessing = metadata["preprocessing"] = defaults | given

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        precision: str = "auto",
        image_size: int | tuple[int, int] = 0,
    ) -> Self:
        """Reads a model file, see `Predictor.load`.

        Args:
            path, device, precision: see `Predictor.load`.
            image_size: side of the images in pixels, or (height, width); 0: as in the file.
        Raises:
            RMTError: as `Predictor.load`, or the network cannot take this size.
        """
        predictor = super().load(path, device=device, precision=precision)
        if image_size:
            sides = image_size if isinstance(image_size, tuple) else (image_size, image_size)
            height, width = (checked_size(side) for side in sides)
            predictor.preprocessing["size"] = [height, width]
            if isinstance(predictor.runtime, ExportedRuntime):
                predictor.runtime.check_size(height, width)
            elif not isinstance(predictor.model, RMT):
                resize(predictor.model, predictor.metadata["model"], (height, width))
        return predictor

    def predict(  # type: ignore[override]
        self, images: ImageLike | Sequence[ImageLike], top_k: int = 5, batch_size: int = 32
    ) -> list[list[Prediction]]:
        """Returns the likeliest classes of each image, the likeliest first.

        Args:
            images: one image or several, see `Predictor.predict`.
            top_k: classes per image, 1 or more; at most all K are returned.
            batch_size: images that are read and run together.
        Returns:
            a list with a list of `Prediction` for each image, or a `BadImage` for one of several that cannot be read.
        Raises:
            BadImage: an RMTError, for one image alone that cannot be read.
            RMTError: `top_k` is below 1.
        """
        if top_k < 1:
            raise RMTError(f"top_k must be at least 1, not {top_k}")
        return super().predict(images, batch_size=batch_size, top_k=top_k)

    def transform(self) -> Callable[[Image.Image], Tensor]:
        """RGB image to uint8 (3, H, W), a quarter of the bytes between processes; `run` normalises on the device."""
        whole = eval_transform(**self.preprocessing)
        return ImageTransform(whole.size, whole.transforms[:-1])

    @staticmethod
    def collate(samples: list[Tensor]) -> Tensor:
        return torch.stack(samples)

    def run(self, batch: Tensor, *, top_k: int = 5) -> list[list[Prediction]]:  # type: ignore[override]
        """Returns the `top_k` likeliest classes of each image of a batch, uint8 (B, 3, H, W)."""
        logits = self.runtime(next(self.normalized(batch)))  # (B, K)
        if logits.ndim != 2:  # a network with global_pool=""
            raise RMTError(f"the network gives logits of {logits.ndim} dimensions, a classifier one row per image")
        top = logits.float().softmax(1).topk(min(top_k, logits.shape[1]))
        return [
            [Prediction(self.classes[k], probability, k) for probability, k in zip(*ranking, strict=True)]
            for ranking in zip(top.values.tolist(), top.indices.tolist(), strict=True)
        ]

    def show(self, prediction: list[Prediction], photo: Callable[[], Image.Image]) -> ImageResult:  # type: ignore[override]
        """The `top_k` likeliest classes."""
        text = ", ".join(f"{p.label} {100 * p.probability:.1f} %" for p in prediction)
        return ImageResult(text, {"predictions": [asdict(p) for p in prediction]})

    def subject(self, photo: Image.Image, at: Point | None, target: str | None) -> Subject:
        """The class `target`, by default the likeliest one, as a decision about the whole image."""
        network = self.backbone()
        pixels = next(self.normalized(self.transform()(photo)[None]))
        ranking = self.predict_batch([photo], top_k=3)[0]
        label = ranking[0].label if target is None else target
        index = self.class_index(label)
        return Subject(
            photo=photo,
            view=shown_part(photo.size, **self.preprocessing),
            network=network,
            pixels=pixels,
            baseline=torch.zeros_like(pixels),
            backbone_input=pixels,
            size=(pixels.shape[2], pixels.shape[3]),
            score=lambda images: network(images)[:, index],
            decision=", ".join(f"{p.label} {100 * p.probability:.1f} %" for p in ranking),
            target=label,
        )

    def normalized(self, batch: Tensor) -> Iterator[Tensor]:
        normalize = Normalize(self.preprocessing["mean"], self.preprocessing["std"])
        yield normalize.batch(batch.to(self.device, non_blocking=True))
