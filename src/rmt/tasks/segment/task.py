"""Semantic segmentation, as the trainer and the commands see it."""

from pathlib import Path

import numpy as np

from rmt.data.images import read_image
from rmt.inference.overlay import class_shares, pictures
from rmt.inference.predictions import Answer
from rmt.inference.segment import Mode, SegmentPredictor, inference_from, load
from rmt.tasks.segment.build import build, resolve
from rmt.tasks.segment.finish import finish, summary
from rmt.tasks.segment.scoring import describe, evaluate_checkpoint
from rmt.training.task import Task


def answer(
    network: SegmentPredictor,
    image: Path,
    *,
    inference: Mode | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    batch_size: int = 4,
) -> Answer:
    """The class of each pixel: shares of the classes, and the pictures of `overlay.pictures`."""
    photo = read_image(image)
    looking = inference_from(network.metadata, batch_size, inference, flip, scales)
    labels: np.ndarray = network.segment(photo, looking).numpy()
    shares = class_shares(labels, network.classes)
    text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:5])
    return Answer(text, {"shares": shares}, pictures(photo, labels, network.classes))


TASK = Task(
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    load=load,
    evaluate=evaluate_checkpoint,
    describe=describe,
    bulky=("confusion",),
    answer=answer,
    draws=True,
)
