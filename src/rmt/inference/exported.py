"""Exported files as runtimes: `open_exported` chooses the library by the file's format."""

import contextlib
import importlib
import logging
import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmt.device import choose_device
from rmt.errors import RMTError
from rmt.extras import missing_extra
from rmt.inference.runtime import Images
from rmt.model.metadata import MAX_CLASSES
from rmt.terminal import plural

#: Format, as `exported` names it -> module and class of its runtime; imported when needed, since they have an extra.
RUNTIMES = {
    "onnx": ("rmt.inference.onnx_runtime", "OnnxRuntime"),
    "openvino": ("rmt.inference.openvino_runtime", "OpenVinoRuntime"),
    "torch": ("rmt.inference.program_runtime", "ProgramRuntime"),
    "aoti": ("rmt.inference.program_runtime", "CompiledRuntime"),
}
PROGRAMS = ("torch", "aoti")  # loading one runs code of the file
MIN_SIZE = 33  # of a side of a dynamic graph: the last stage then has two rows, and one is another graph


class WrongSize(RMTError):
    """An image has, after resizing, a size that a graph does not take. `reason` says so without the file's name."""

    def __init__(self, path: Path, reason: str, remedy: str = "") -> None:
        super().__init__(f"{path} {reason}{remedy}")
        self.reason = reason


class ExportedRuntime(ABC):
    """Runs the graph of an exported file on the CPU; see `Runtime`.

    Args:
        path: of the file.
        exported: the entry `exported` of its metadata: format, precision, input, outputs, num_classes.

    Attributes:
        shape: of the input, (B, 3, H, W); None where the graph takes any number.
        outputs: the names of the graph's outputs.
    """

    device: torch.device = torch.device("cpu")

    def __init__(self, path: Path, exported: Mapping[str, Any]) -> None:
        self.path = path
        self.precision: str = exported["precision"]
        self.num_classes: int = exported["num_classes"]
        self.shape: tuple[int | None, ...] = tuple(exported["input"]["shape"])
        self.outputs: list[str] = exported["outputs"]
        with one_line_errors(path):
            self.open(path)

    @abstractmethod
    def open(self, path: Path) -> None:
        """Reads the file and prepares the graph."""

    @abstractmethod
    def run(self, images: np.ndarray) -> list[np.ndarray]:
        """Returns the graph's outputs for images, float32 (B, 3, H, W)."""

    def check_size(self, height: int, width: int) -> None:
        """Raises WrongSize unless the graph takes images of this size."""
        own = self.shape[2:]
        if None in own:
            if min(height, width) < MIN_SIZE:
                raise WrongSize(self.path, f"takes images from {MIN_SIZE} pixels a side, not {height}×{width}")
        elif own != (height, width):
            reason = f"takes images of {own[0]}×{own[1]} pixels (height × width), not {height}×{width}"
            remedy = f": export it with --dynamic, or with --image-size {height} {width}"
            raise WrongSize(self.path, reason, remedy)

    def named_outputs(self, images: Tensor) -> dict[str, Tensor]:
        """The graph's outputs by name, for images (B, 3, H, W)."""
        self.check_size(*images.shape[2:])
        pixels = images.detach().float().cpu().contiguous().numpy()
        step = self.shape[0] or len(pixels)
        with one_line_errors(self.path):
            parts = [self.run(pixels[i : i + step]) for i in range(0, len(pixels), step)]
            joined = [torch.from_numpy(np.concatenate(each)) for each in zip(*parts, strict=True)]
            return dict(zip(self.outputs, joined, strict=True))

    def check_classes(self, found: int) -> None:
        """Raises RMTError unless the graph's outputs have as many classes as the metadata say."""
        if found != self.num_classes:
            raise RMTError(
                f"{self.path} has outputs for {plural(found, 'class')}, and its metadata say {self.num_classes:,}: "
                "export it again with rmt export"
            )

    def __call__(self, images: Images, **arguments: Any) -> Any:
        if not isinstance(images, Tensor) or arguments:
            raise TypeError("the graph takes one batch of images (B, 3, H, W)")
        logits = next(iter(self.named_outputs(images).values()))
        self.check_classes(logits.shape[1] if logits.ndim > 1 else 0)
        return logits


def open_exported(
    path: Path, metadata: Mapping[str, Any], device: str = "auto", precision: str = "auto", *, trusted: bool = False
) -> ExportedRuntime:
    """The runtime for an exported file.

    Args:
        path: of the file.
        metadata: of the file, from `read_metadata`.
        device: "auto" or "cpu".
        precision: "auto" or that of the file.
        trusted: the file may run code, see `require_trust`.
    Raises:
        RMTError: another device or precision, a damaged file, or a library is missing.
    """
    exported = _checked(metadata["exported"], path)
    if metadata.get("classes") and len(metadata["classes"]) != exported["num_classes"]:
        raise RMTError(
            f"{path} has {plural(len(metadata['classes']), 'class name')} for "
            f"{plural(exported['num_classes'], 'class')} in its metadata; export it again with rmt export"
        )
    if device != "auto" and choose_device(device).type != "cpu":
        raise RMTError(f"--device {device}: exported files run on the CPU; use --device cpu, or the model file")
    if precision not in ("auto", exported["precision"]):
        raise RMTError(
            f"--precision {precision}: {path} was exported in {exported['precision']}; export it again with --precision"
        )
    if exported["format"] in PROGRAMS and not trusted:
        require_trust(path)
    module, name = RUNTIMES[exported["format"]]
    try:
        return getattr(importlib.import_module(module), name)(path, exported)
    except ModuleNotFoundError as error:
        raise missing_extra(str(path), error) or error from None


def require_trust(path: Path) -> None:
    """Raises RMTError unless the environment variable `RMT_RUN_PROGRAMS` is 1."""
    if os.environ.get("RMT_RUN_PROGRAMS") != "1":
        raise RMTError(
            f"{path} is a program, and loading it runs whatever its author put there: set RMT_RUN_PROGRAMS=1 if you "
            "trust it, or export to ONNX or OpenVINO"
        )


def _checked(exported: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    """The entry `exported`, from any source. Raises RMTError if an entry is missing or of another type."""
    try:
        shape = exported["input"]["shape"]
        sides = [side for side in shape if side is not None]
        valid = (
            exported["format"] in RUNTIMES
            and exported["precision"] in ("fp32", "bf16", "int8")
            and len(shape) == 4
            and shape[1] == 3
            and all(isinstance(side, int) and 1 <= side <= 2**16 for side in sides)
            and isinstance(exported["num_classes"], int)
            and 1 <= exported["num_classes"] <= MAX_CLASSES
            and isinstance(exported["outputs"], list)
            and len(exported["outputs"]) > 0
            and all(isinstance(name, str) for name in exported["outputs"])
        )
    except (LookupError, TypeError):
        valid = False
    if not valid:
        raise RMTError(f"{path} has no valid `exported` in its metadata; export it again with rmt export")
    return exported


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings and the log of libraries, which repeat an error with its traceback before it is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def one_line_errors(path: Path) -> Iterator[None]:
    """Turn what a library raises about a file, which each does by classes of its own, into an RMTError."""
    try:
        yield
    except (RMTError, ModuleNotFoundError, MemoryError):
        raise
    except Exception as error:
        raise RMTError(f"{path} cannot be run: {' '.join(str(error).split())[:300]}") from error
