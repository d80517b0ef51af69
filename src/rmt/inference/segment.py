"""`rmt.load(path)` of a segmenter: the network with its classes and its preprocessing, ready for images."""

import functools
from pathlib import Path
from typing import Any, Literal, cast

import torch
from PIL import Image

from rmt.data.images import read_image
from rmt.data.segmentation.transforms import resize_to_fit
from rmt.device import autocast, choose_device, choose_precision
from rmt.errors import RMTError
from rmt.heads import Segmenter, load_model
from rmt.heads.segmentation.sliding import InferenceOptions, segment
from rmt.inference.colours import palette

Mode = Literal["whole", "sliding"]


class SegmentPredictor:
    """A trained segmenter.

    Attributes:
        model: the network in eval mode, images (B, 3, H, W) to logits (B, K, H, W).
        classes: the K class names in the order of the logits.
        colours: uint8 (K, 3), the RGB in which classes are shown.
        preprocessing: mean, std, long_side and short_side (0: images keep their size).
        metadata: everything the file says of itself, recipe and metrics included.
    """

    def __init__(self, model: Segmenter, metadata: dict[str, Any], device: torch.device, precision: str) -> None:
        self.model = model
        self.metadata = metadata
        self.classes: tuple[str, ...] = tuple(metadata["classes"]) or tuple(map(str, range(model.num_classes)))
        self.colours = palette(len(self.classes))
        self.preprocessing: dict[str, Any] = metadata["preprocessing"]
        self.device = device
        self.precision = precision

    def segment(self, image: str | Path | Image.Image, inference: InferenceOptions | None = None) -> torch.Tensor:
        """The class of each pixel, uint8 (height, width) of the image as it is, on the CPU.

        Raises BadImage (an RMTError) for a path that cannot be read as an image.
        """
        opened = image.convert("RGB") if isinstance(image, Image.Image) else read_image(Path(image))
        return segment(
            self.model,
            resize_to_fit(opened, self.preprocessing["long_side"], self.preprocessing["short_side"]),
            (opened.height, opened.width),
            mean=self.preprocessing["mean"],
            std=self.preprocessing["std"],
            inference=inference or inference_from(self.metadata),
            autocast=functools.partial(autocast, self.precision, self.device),
        )


def load(
    path: str | Path, *, device: str = "auto", precision: str = "auto", short_side: int | None = None
) -> SegmentPredictor:
    """The segmenter in a `.safetensors` file, or the best one of a run folder.

    `short_side` replaces the file's own, the long side growing with it; 0 leaves images their size. Raises RMTError.
    """
    where = choose_device(device)
    chosen = choose_precision(precision, where)
    model, metadata = load_model(path, where)
    if not isinstance(model, Segmenter):
        raise RMTError(f"{path} is no segmenter")
    preprocessing = metadata["preprocessing"]
    preprocessing.setdefault("long_side", 2048)
    preprocessing.setdefault("short_side", 512)
    if short_side is not None:
        if short_side < 0 or 0 < short_side < 32:
            raise RMTError(f"--short-side must be at least 32, or 0 to leave images their size; it is {short_side}")
        preprocessing["long_side"], preprocessing["short_side"] = 4 * short_side, short_side
    return SegmentPredictor(model, metadata, where, chosen)


def inference_from(
    metadata: dict[str, Any],
    batch_size: int = 4,
    mode: Mode | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
) -> InferenceOptions:
    """How a segmenter looks at images: as it was judged in training, but for what is given here.

    Windows are as large as the training crops, two thirds of that apart: 512 and 341 (METHOD 7).
    """
    window = int(cast(list, metadata["preprocessing"]["size"])[0])
    sliding = mode == "sliding" if mode else bool(metadata.get("recipe", {}).get("sliding", False))
    return InferenceOptions(sliding, window, window * 2 // 3, flip, tuple(scales), batch_size)
