"""Predictor of semantic segmentation: images to a class per pixel."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from rmt.data.segmentation.transforms import resize_to_fit
from rmt.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from rmt.errors import RMTError
from rmt.heads import load_model
from rmt.heads.segmentation.sliding import InferenceOptions, pad_to_smallest, segment
from rmt.inference.drawing.masks import class_shares, draw_segmentation, segmentation_pictures
from rmt.inference.drawing.palette import palette
from rmt.inference.explain import Subject
from rmt.inference.explain.subject import Point, nearest_to_middle
from rmt.inference.inputs import ImageLike, open_image
from rmt.inference.predictor import Predictor
from rmt.inference.results import ImageResult
from rmt.inference.runtime import Runtime
from rmt.model.metadata import MAX_SIDE

__all__ = ["SegmentPredictor"]

Mode = Literal["whole", "sliding"]

Sample = tuple[Tensor, tuple[int, int]]
"""A resized image, uint8 (3, h, w), and the height and width of the original."""


@dataclass(frozen=True)
class SegmentationSample:
    """Resizes an image, see `resize_to_fit`. Returns a `Sample`."""

    long_side: int
    short_side: int

    def __call__(self, image: Image.Image) -> Sample:
        return resize_to_fit(image, self.long_side, self.short_side), (image.height, image.width)


class SegmentPredictor(Predictor):
    """A trained segmenter. `predict(images)` returns a class map for each image, `segment(image)` that of one.

    A class map is a uint8 tensor (height, width) on the CPU, of the size of the image; its values are indices into
    `classes`. `predict` takes the options of `run`: `inference`, `flip` and `scales`.

    `preprocessing` has `mean` and `std` of RGB in 0…1; and `short_side` and `long_side`, to which images are resized,
    in pixels. If `short_side` is 0, images keep their size.

    Attributes:
        colours: uint8 (K, 3), the RGB in which classes are drawn.
    """

    task = "segment"
    batch_size = 1  # images differ in size, and are divided into windows one by one
    load_network: ClassVar[Callable[..., tuple[nn.Module, dict[str, Any]]]] = staticmethod(load_model)
    has_pictures = True

    def __init__(self, runtime: Runtime, metadata: dict[str, Any]) -> None:
        super().__init__(runtime, metadata)
        self.colours: np.ndarray = palette(len(self.classes))
        self.preprocessing.setdefault("mean", list(IMAGENET_MEAN))
        self.preprocessing.setdefault("std", list(IMAGENET_STD))
        self.preprocessing.setdefault("long_side", 2048)
        self.preprocessing.setdefault("short_side", 512)

    @classmethod
    def load(
        cls, path: str | Path, *, device: str = "auto", precision: str = "auto", short_side: int | None = None
    ) -> Self:
        """Reads a model file, see `Predictor.load`.

        Args:
            path, device, precision: see `Predictor.load`.
            short_side: shorter side of the images in pixels; the longest is four times that. 0: images keep their size.
                None: as in the file.
        Raises:
            RMTError: as `Predictor.load`, or `short_side` is out of its bounds.
        """
        predictor = super().load(path, device=device, precision=precision)
        if short_side is not None:
            if short_side and not 32 <= short_side <= MAX_SIDE // 4:
                raise RMTError(
                    f"--short-side must be from 32 to {MAX_SIDE // 4:,}, or 0 to leave images their size; it is "
                    f"{str(short_side)[:40]}"
                )
            predictor.preprocessing |= {"long_side": 4 * short_side, "short_side": short_side}
        return predictor

    def transform(self) -> "SegmentationSample":
        """Returns the function from an RGB image to the resized image, uint8 (3, h, w), and its (height, width)."""
        return SegmentationSample(self.preprocessing["long_side"], self.preprocessing["short_side"])

    def run(  # type: ignore[override]
        self,
        batch: list[Sample],
        *,
        inference: InferenceOptions | Mode | None = None,
        flip: bool = False,
        scales: tuple[float, ...] = (1.0,),
        batch_size: int = 4,
    ) -> list[Tensor]:
        """Returns the class of each pixel of each image, uint8 (height, width) of the image, on the CPU.

        Args:
            batch: what `transform` returns.
            inference: "whole" or "sliding"; by default as the network was evaluated in training. Or all options at
                once, as `InferenceOptions`; the others are then ignored.
            flip: average with the prediction for the mirrored image.
            scales: average the predictions at these multiples of the size.
            batch_size: windows per forward pass.
        """
        if not isinstance(inference, InferenceOptions):
            inference = inference_from(self.metadata, batch_size, inference, flip, scales)
        mean, std = self.preprocessing["mean"], self.preprocessing["std"]
        return [
            segment(self.runtime, image.to(self.device), size, mean=mean, std=std, inference=inference)
            for image, size in batch
        ]

    def segment(self, image: ImageLike, inference: InferenceOptions | None = None) -> Tensor:
        """Returns the class of each pixel of one image, uint8 (height, width) of the image, on the CPU.

        Args:
            image: see `ImageLike`.
            inference: whole or with windows, flip and scales; by default as the network was evaluated in training.
        Raises:
            BadImage: an RMTError, for an image that cannot be read.
        """
        return self.predict_batch([open_image(image)], inference=inference)[0]

    def show(self, prediction: Tensor, photo: Callable[[], Image.Image]) -> ImageResult:  # type: ignore[override]
        """Returns what `rmt predict` shows of an image: the shares of the classes, and pictures of them."""
        labels = prediction.numpy()
        shares = class_shares(labels, self.classes)
        text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:5])
        return ImageResult(text, {"shares": shares}, lambda: segmentation_pictures(photo(), labels, self.classes))

    def subject(self, photo: Image.Image, at: Point | None, target: str | None) -> Subject:
        """The class at the point, or `target`, by default the most frequent one, as a decision about its pixels.

        A network that is applied to windows is shown one, around the point or the middle of the image.
        """
        network = self.backbone()
        labels = self.segment(photo)
        shares = class_shares(labels.numpy(), self.classes)
        label = target or (self.classes[int(labels[int(at[1]), int(at[0])])] if at else next(iter(shares)))
        index = self.class_index(label)

        image, size = self.transform()(photo)
        scale = photo.width / image.shape[2], photo.height / image.shape[1]
        middle = at or nearest_to_middle((labels == index).numpy()) or (photo.width / 2, photo.height / 2)
        options = inference_from(self.metadata)
        sides = [min(side, options.window) if options.sliding else side for side in image.shape[1:]]
        top, left = (
            min(max(round(place / by - side / 2), 0), whole - side)
            for place, by, side, whole in zip(middle[::-1], scale[::-1], sides, image.shape[1:], strict=True)
        )
        shown = image[:, top : top + sides[0], left : left + sides[1]]
        pixels = pad_to_smallest(next(self.normalized([(shown, size)]))).to(self.device)
        view = (left * scale[0], top * scale[1], (left + sides[1]) * scale[0], (top + sides[0]) * scale[1])
        with torch.no_grad():
            region = self.model(pixels)[0, :, : sides[0], : sides[1]].argmax(0) == index

        def score(images: Tensor) -> Tensor:
            """The mean logit of the class over its pixels."""
            return self.model(images)[:, index, : sides[0], : sides[1]][:, region].mean(1)

        return Subject(
            photo=photo,
            view=view,
            network=network,
            pixels=pixels,
            baseline=torch.zeros_like(pixels),
            backbone_input=pixels,
            size=(sides[0], sides[1]),
            score=score if region.any() else None,
            decision=", ".join(f"{name} {100 * share:.0f} %" for name, share in list(shares.items())[:4]),
            target=label,
            region=region.cpu().numpy(),
            draw=partial(draw_segmentation, photo, labels.numpy(), self.classes),
        )

    def normalized(self, batch: list[Sample]) -> Iterator[Tensor]:
        mean, std = (torch.tensor(self.preprocessing[key]).view(3, 1, 1) for key in ("mean", "std"))
        for image, _ in batch:
            yield ((image / 255 - mean) / std)[None]


def inference_from(
    metadata: dict[str, Any],
    batch_size: int = 4,
    mode: Mode | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> InferenceOptions:
    """Returns the inference options: those of the file, else the recipe's; overridden by the arguments.

    Windows are as large as the training crops and two thirds of that apart: 512 and 341 pixels for ADE20K.
    """
    window = int(metadata["preprocessing"]["size"][0])
    mode = mode or metadata["preprocessing"].get("inference")  # measured at the end of the run
    sliding = mode == "sliding" if mode else bool(metadata.get("recipe", {}).get("sliding", False))
    return InferenceOptions(sliding, window, window * 2 // 3, flip, tuple(scales), batch_size)
