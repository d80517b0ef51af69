"""The evaluation loop. The same code scores networks in validation, at the end of a run and in `rmt evaluate`."""

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric.utilities import move_data_to_device
from torch import nn
from torchmetrics import Metric

from rmt.data.loader import BatchLoader
from rmt.errors import RMTError
from rmt.training.distributed import processes

# Where no image could be read, `compute` raises an error that says so.
warnings.filterwarnings(
    "ignore", message=r"The ``compute`` method of metric .* was called before", module="torchmetrics"
)


@dataclass(frozen=True)
class MetricColumns:
    """The reported metrics of a task.

    Attributes:
        columns: the scores that get a column in `metrics.csv`, as `val_NAME` and `ema_val_NAME`.
        best: the one that `best.safetensors` is chosen by, in percent; more is better.
        label: its name in tables.
        second: another score for the table that is printed during training, and `second_label` its name there.
        tolerance: standard errors by which the score of `best` may be below the highest one, see `margin`.
    """

    columns: tuple[str, ...]
    best: str
    label: str
    second: str = "loss"
    second_label: str = "loss"
    tolerance: float = 0.0

    def of(self, scores: dict[str, float]) -> float:
        """The score that `best` is chosen by."""
        return scores[self.best]

    def margin(self, scores: dict[str, float]) -> float:
        """The points by which a later score may be below this one and still be `best`: `tolerance` standard errors of
        an accuracy on as many images."""
        if not self.tolerance:
            return 0.0
        share = self.of(scores) / 100
        return 100 * self.tolerance * (share * (1 - share) / scores["images"]) ** 0.5

    def row(self, prefix: str, scores: dict[str, float]) -> dict[str, float | None]:
        """The scores under their columns' names; None where there are none."""
        return {f"{prefix}_{name}": scores.get(name) for name in self.columns}


class Evaluator(nn.Module, ABC):
    """The metrics of one network on a set of images, updated batch by batch.

    `compute` combines the counts of all processes, so that no mean is taken before the last image is counted.

    Args:
        num_images: images in the set.

    Attributes:
        num_read: images that this process has counted.
        unreadable: name and reason of each image that this process could not read.
    """

    num_read: int

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.num_images = num_images
        self.num_read = 0
        self.unreadable: dict[str, str] = {}

    def update(self, network: Callable[..., Any], batch: dict[str, Any]) -> None:
        """Runs the network on a batch of the evaluation loader and counts; all images of a batch may be unreadable."""
        self.unreadable.update(batch["bad"])
        if len(batch["index"]):
            self.num_read += len(batch["index"])
            self.update_metrics(network, batch)

    @abstractmethod
    def update_metrics(self, network: Callable[..., Any], batch: dict[str, Any]) -> None:
        """Update the metrics with a batch of at least one image."""

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """Returns the metrics over all images. Raises RMTError when none could be read."""

    def reset(self) -> None:
        """Clears all counts and the metrics among the submodules, for the next evaluation."""
        self.num_read = 0
        for module in self.modules():
            if isinstance(module, Metric):
                module.reset()

    def require_images(self) -> None:
        """Raises RMTError when no process could read any image; all must call it."""
        if not any(processes.all_gather(self.num_read)):
            raise RMTError(f"none of the images to evaluate on ({self.num_images:,}) could be read")


@torch.inference_mode()
def evaluate(
    evaluators: Mapping[str, Evaluator],
    networks: Mapping[str, Callable[..., Any]],
    loader: BatchLoader,
    device: torch.device,
) -> None:
    """Updates each evaluator with the network of the same name, in one pass over the loader, which is closed then.

    The networks are on `device`, in eval mode.
    """
    for evaluator in evaluators.values():
        evaluator.to(device)
    with contextlib.closing(loader):
        for batch in loader:
            batch = move_data_to_device(batch, device)
            for name, evaluator in evaluators.items():
                evaluator.update(networks[name], batch)
