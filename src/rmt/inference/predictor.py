"""The base of all predictors: a trained network with its classes and preprocessing, ready for images."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from PIL import Image
from torch import nn

from rmt.data.images import BadImage
from rmt.device import choose_device, choose_precision
from rmt.errors import RMTError
from rmt.inference.exported import ExportedRuntime, open_exported
from rmt.inference.inputs import ImageLike, as_list, open_or_error
from rmt.inference.results import ImageResult
from rmt.inference.runtime import Runtime, TorchRuntime
from rmt.model import read_metadata


class Predictor(ABC):
    """A trained network, ready for images; `rmt.load(path)` returns the one that suits the file's task.

    Attributes:
        runtime: what runs the network on a batch, on `device`, in `precision`.
        classes: the K class names in the order of the network's outputs; numbers where the file has no names.
        preprocessing: how images are resized and normalised, as stored in the file.
        metadata: everything that is stored in the file besides the weights, recipe and metrics included.
    """

    task: ClassVar[str]
    load_network: ClassVar[Any]
    """(path) -> (network, metadata): reads a model file of this package."""
    batch_size: ClassVar[int] = 32
    has_pictures: ClassVar[bool] = False
    """Whether `result` comes with pictures."""

    def __init__(self, runtime: Runtime, metadata: dict[str, Any]) -> None:
        self.runtime = runtime
        self.device, self.precision, self.num_classes = runtime.device, runtime.precision, runtime.num_classes
        self.metadata = metadata
        self.classes: tuple[str, ...] = tuple(metadata["classes"]) or tuple(map(str, range(runtime.num_classes)))
        self.preprocessing: dict[str, Any] = metadata["preprocessing"]
        if "size" not in self.preprocessing and self.task != "detect":
            raise RMTError("the model file does not say the size of its images: preprocessing=dict(size=[H, W], …)")

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", precision: str = "auto") -> Self:
        """Reads a `.safetensors` file, the best one of a run folder, or an exported file.

        Raises:
            RMTError: the file is not a model file of this package for this task, or the device is missing.
        """
        metadata = read_metadata(path)
        if "exported" in metadata and metadata["task"] == cls.task:
            runtime = open_exported(Path(path), metadata, device, precision)
            return cls(cls.wrap_exported(runtime, metadata), metadata)
        chosen_device = choose_device(device)
        chosen_precision = choose_precision(precision, chosen_device)
        model, metadata = cls.load_network(path)
        if metadata["task"] != cls.task:
            raise RMTError(f"{path} is a model for the task {metadata['task']!r}, not {cls.task!r}")
        return cls(TorchRuntime(model, chosen_device, chosen_precision), metadata)

    @classmethod
    def wrap_exported(cls, runtime: ExportedRuntime, metadata: dict[str, Any]) -> Runtime:
        """Returns what does the rest of the network's work, if an exported graph does not do all of it."""
        return runtime

    @property
    def model(self) -> nn.Module:
        """The network in eval mode, if it runs in a `TorchRuntime`."""
        return self.runtime.model  # type: ignore[attr-defined]

    @abstractmethod
    def predict_batch(self, images: list[Image.Image], **options: Any) -> list[Any]:
        """Returns one prediction for each of some RGB images, which go through the network together if they can."""

    @abstractmethod
    def result(self, image: ImageLike) -> ImageResult:
        """Returns what `rmt predict` shows of one image; further keywords of a subclass are options of the command."""

    def results(self, images: Sequence[ImageLike], **options: Any) -> list[ImageResult]:
        """Returns `result` of each image. A subclass may run the network on all of them together."""
        return [self.result(image, **options) for image in images]

    def document(self, results: Sequence[tuple[Path, ImageResult]]) -> dict[str, Any] | None:
        """Returns the content of `predictions.json` for (image, result) pairs; None if the task writes no such file."""
        return None

    def predict(
        self, images: ImageLike | Sequence[ImageLike], *, batch_size: int | None = None, **options: Any
    ) -> list[Any]:
        """Returns one prediction per image, in order.

        Args:
            images: one image or several: paths, bytes of files, PIL images, arrays or tensors, see `ImageLike`.
            batch_size: images that are read and run together; the class's own unless given.
            options: those of the subclass's `predict_batch`.
        Returns:
            a list. In the place of an image that cannot be read it has the `BadImage` error, whose message names it,
            so that the predictions for the others are not lost.
        Raises:
            BadImage: an RMTError, for one image alone that cannot be read.
        """
        batch_size = batch_size or self.batch_size
        several, alone = as_list(images)
        predictions: list[Any] = []
        for start in range(0, len(several), batch_size):
            part = several[start : start + batch_size]
            opened = [open_or_error(image, "image" if alone else f"image {start + i}") for i, image in enumerate(part)]
            if alone and isinstance(opened[0], BadImage):
                raise opened[0]
            readable = [image for image in opened if isinstance(image, Image.Image)]
            found = iter(self.predict_batch(readable, **options) if readable else [])
            predictions += [image if isinstance(image, BadImage) else next(found) for image in opened]
        return predictions


def checked_size(image_size: int) -> int:
    """Returns `image_size`. Raises RMTError when it is smaller than the networks take."""
    if image_size < 32:
        raise RMTError(f"--image-size must be at least 32, not {image_size}")
    return image_size
