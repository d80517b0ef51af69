"""The base of all predictors: a trained network with its classes and preprocessing, ready for images."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from rmt.data.images import BadImage
from rmt.device import choose_device, choose_precision
from rmt.errors import RMTError
from rmt.heads.pyramid import Pyramid
from rmt.inference.embeddings import DType, convert, embedding_function
from rmt.inference.explain import Explanation, Subject, explain
from rmt.inference.explain.subject import Point, check_point
from rmt.inference.exported import ExportedRuntime, open_exported
from rmt.inference.inputs import ImageLike, as_list, open_image, open_or_error
from rmt.inference.results import ImageResult
from rmt.inference.runtime import Runtime, TorchRuntime
from rmt.model import RMT, read_metadata
from rmt.model.metadata import MAX_SIDE
from rmt.suggestions import suggest


class Predictor(ABC):
    """A trained network, ready for images; `rmt.load(path)` returns the one that suits the file's task.

    Attributes:
        runtime: what runs the network on a batch, on `device`, in `precision`.
        classes: the K class names in the order of the network's outputs; numbers where the file has no names.
        preprocessing: how images are resized and normalised, as stored in the file.
        metadata: everything that is stored in the file besides the weights, recipe and metrics included.
    """

    device: torch.device
    precision: str
    num_classes: int

    task: ClassVar[str]
    load_network: ClassVar[Callable[..., tuple[nn.Module, dict[str, Any]]]]
    """(path) -> (network, metadata): reads a model file of this package."""
    batch_size: ClassVar[int] = 32
    has_pictures: ClassVar[bool] = False
    """Whether `show` comes with pictures."""
    show_options: ClassVar[tuple[str, ...]] = ()
    """The keywords of `show`; the other options are those of `run`."""

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

        Args:
            path: the file or folder.
            device: "auto", "cpu", "cuda" or "mps".
            precision: "auto", "fp32", "bf16" or "fp16".
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
    def transform(self) -> Callable[[Image.Image], Any]:
        """Returns the function from an RGB image to one sample of a batch; it can be pickled and has no weights."""

    @staticmethod
    def collate(samples: list[Any]) -> Any:
        """Returns the batch of some samples, at least one."""
        return samples

    @abstractmethod
    def run(self, batch: Any, **options: Any) -> list[Any]:
        """Returns one prediction for each sample of a batch, which go through the network together if they can."""

    @abstractmethod
    def show(self, prediction: Any, photo: Callable[[], Image.Image], **options: Any) -> ImageResult:
        """Returns what `rmt predict` shows of an image; `photo` returns the image, for the pictures."""

    @abstractmethod
    def normalized(self, batch: Any) -> Iterator[Tensor]:
        """Yields the images of a batch as the backbone takes them, (B, 3, H, W) each, in order."""

    def predict_batch(self, images: list[Image.Image], **options: Any) -> list[Any]:
        """Returns `run` of the batch of some RGB images."""
        transform = self.transform()
        return self.run(self.collate([transform(image) for image in images]), **options)

    def result(self, image: ImageLike, **options: Any) -> ImageResult:
        """Returns what `rmt predict` shows of one image, with the options of `run` and `show`."""
        return self.results([image], **options)[0]

    def results(self, images: Sequence[ImageLike], **options: Any) -> list[ImageResult]:
        """Returns `result` of each image; they are one batch."""
        photos = [open_image(image) for image in images]
        shown = {key: options.pop(key) for key in list(options) if key in self.show_options}
        predictions = self.predict_batch(photos, **options)
        return [self.show(p, photo.copy, **shown) for p, photo in zip(predictions, photos, strict=True)]

    @abstractmethod
    def subject(self, photo: Image.Image, at: Point | None, target: str | None) -> Subject:
        """Returns the decision about an RGB image that `explain` explains, see there."""

    def explain(
        self, image: ImageLike, *, at: Point | None = None, target: str | None = None, evidence: bool = True
    ) -> Explanation:
        """Returns what led to the decision about an image: attention, receptive fields and gradients, as arrays.

        Args:
            image: see `predict`.
            at: the point (x, y) in pixels of the image from which the stages look, and of a detector's or segmenter's
                image the object or segment to explain.
            target: the class to explain, by default the likeliest one.
            evidence: whether to compute Grad-CAM and integrated gradients, which take most of the time.
        Raises:
            BadImage: the image cannot be read.
            RMTError: a point outside the image, an unknown class, or a network without gradients or our attention.
        """
        self.backbone()  # refuses networks that cannot be explained
        if target is not None:
            self.class_index(target)
        photo = open_image(image)
        if at is not None:
            check_point(at, photo)
        return explain(self.subject(photo, at, target), at, evidence=evidence)

    def backbone(self) -> RMT:
        """Returns the network without heads, whose attention and gradients are explained.

        Raises:
            RMTError: it is an exported file, or a network of timm.
        """
        if not isinstance(self.runtime, TorchRuntime):
            raise RMTError(
                "an exported file has no gradients and no attention to read: explain the model file it was made of"
            )
        pyramid = next((module for module in self.model.modules() if isinstance(module, Pyramid)), None)
        network = self.model if pyramid is None else pyramid.backbone
        if not isinstance(network, RMT):
            name = self.metadata["model"]
            raise RMTError(f"{name} is a network of timm without Manhattan attention: only RMT's can be explained")
        return network

    def class_index(self, name: str) -> int:
        """Returns the index of a class. Raises RMTError, with the nearest names and where to find all, for one that
        the network does not know."""
        if name not in self.classes:
            number, near = len(self.classes), suggest(str(name), self.classes)
            known = f"`rmt info CHECKPOINT --json` lists all {number:,}" if number > 10 else ", ".join(self.classes)
            hint = f"{near} ({known})" if near else f"it knows {known}" if number <= 10 else known
            raise RMTError(f"the network knows no class {str(name)[:60]!r}: {hint}")
        return self.classes.index(name)

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
            options: those of the subclass's `run`.
        Returns:
            a list. In the place of an image that cannot be read it has the `BadImage` error, whose message names it,
            so that the predictions for the others are not lost.
        Raises:
            BadImage: an RMTError, for one image alone that cannot be read.
        """
        predictions: list[Any] = []
        for opened in _opened(images, batch_size or self.batch_size):
            readable = [image for image in opened if isinstance(image, Image.Image)]
            found = iter(self.predict_batch(readable, **options) if readable else [])
            predictions += [image if isinstance(image, BadImage) else next(found) for image in opened]
        return predictions

    def embed(
        self,
        images: ImageLike | Sequence[ImageLike],
        *,
        stage: int | None = None,
        dtype: DType = "fp32",
        batch_size: int | None = None,
    ) -> Tensor:
        """Returns the embedding of each image, (N, D) on the CPU.

        Args:
            images: one image or several, as in `predict`.
            stage: the stage, counted from 1, whose output is averaged over the image; by default the features that a
                classifier's last layer sees, or the last stage of another network.
            dtype: "fp32" or "fp16".
            batch_size: images that are read and run together; the class's own unless given.
        Raises:
            BadImage: an RMTError, for an image that cannot be read.
            RMTError: there is no such stage; or the file is an exported one, whose graph returns no features.
        """
        transform, parts = self.transform(), []
        for opened in _opened(images, batch_size or self.batch_size):
            if bad := next((image for image in opened if isinstance(image, BadImage)), None):
                raise bad
            parts.append(self.embed_batch(self.collate([transform(image) for image in opened]), stage=stage))
        return convert(torch.cat(parts) if parts else torch.empty(0, 0), dtype)

    def embed_batch(self, batch: Any, *, stage: int | None = None) -> Tensor:
        """Returns the embeddings (B, D) of a batch, see `embed`, on the device."""
        if not isinstance(self.runtime, TorchRuntime):
            raise RMTError("an exported file has no features to embed, only predictions: use the model file")
        function = embedding_function(self.model, stage)
        return torch.cat([self.runtime.run(function, images).float() for images in self.normalized(batch)])


def _opened(images: ImageLike | Sequence[ImageLike], size: int) -> Iterator[list[Any]]:
    """Yields the images, or their errors, `size` at a time. Raises BadImage for one image alone."""
    several, alone = as_list(images)
    for start in range(0, len(several), size):
        part = several[start : start + size]
        opened = [open_or_error(image, "image" if alone else f"image {start + i}") for i, image in enumerate(part)]
        if alone and isinstance(opened[0], BadImage):
            raise opened[0]
        yield opened


def checked_size(image_size: int) -> int:
    """Returns `image_size`. Raises RMTError when it is smaller than the networks take, or larger than any file's."""
    if not 32 <= image_size <= MAX_SIDE:
        raise RMTError(f"--image-size must be from 32 to {MAX_SIDE:,}, not {str(image_size)[:40]}")
    return image_size
