"""Scoring networks on a set of images, each image counted once."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmt.device import autocast
from rmt.errors import RMTError
from rmt.tasks.classify.metrics import Scores


@dataclass(frozen=True)
class Answers:
    """What one network said to each image; all arrays (N,)."""

    index: np.ndarray  # int64, number of the image in its set
    label: np.ndarray  # int64, the true class
    predicted: np.ndarray  # int64
    probability: np.ndarray  # float32, of the predicted class


@dataclass
class Evaluation:
    """The result of one pass: counts per network, unreadable images (name -> reason), one network's answers."""

    scores: dict[str, Scores]
    unread: dict[str, str] = field(default_factory=dict)
    _answers: list[tuple[Tensor, Tensor, Tensor, Tensor]] = field(default_factory=list)

    def results(self) -> dict[str, dict[str, float]]:
        """Per network: mean loss, top1 and top5 in percent, number of images."""
        return {name: scores.compute() for name, scores in self.scores.items()}

    def confusion(self, name: str) -> np.ndarray:
        """(K, K) counts, a row per true class."""
        return self.scores[name].confusion.cpu().numpy()

    @property
    def answers(self) -> Answers:
        return Answers(*(torch.cat(parts).cpu().numpy() for parts in zip(*self._answers, strict=True)))


@torch.inference_mode()
def evaluate(
    networks: Mapping[str, nn.Module],
    batches: Iterable[Mapping[str, Any]],
    num_classes: int,
    *,
    device: torch.device,
    precision: str,
) -> Evaluation:
    """Runs every network over the same single pass of `batches` (dicts of image, label, index and bad).

    The answers kept are the last network's. All networks are on `device` and in eval mode afterwards. Raises RMTError
    when no image at all could be read.
    """
    done = Evaluation({name: Scores(num_classes, confusion=True).to(device) for name in networks})
    for network in networks.values():
        network.to(device).eval()
    for batch in batches:
        done.unread.update(batch["bad"])
        labels = batch["label"].to(device)
        if not len(labels):  # every image of the batch was unreadable
            continue
        images = batch["image"].to(device, non_blocking=True)
        for name, network in networks.items():
            with autocast(precision, device):
                logits = network(images)  # (B, K)
            done.scores[name].update(logits, labels)
        probability, predicted = logits.float().softmax(1).max(1)
        done._answers.append((batch["index"], labels, predicted, probability))
    if not done._answers:
        raise RMTError(f"none of the {len(done.unread)} images to judge on could be read")
    return done
