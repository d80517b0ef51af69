"""Semantic segmentation, as the trainer and the commands see it."""

from pathlib import Path

import numpy as np

from rmt.data.images import read_image
from rmt.recipes.segment_schema import SegmentRecipe
from rmt.tasks.answers import Answer
from rmt.tasks.segment.finish import finish, summary
from rmt.tasks.segment.module import SegmentModule
from rmt.tasks.segment.overlay import class_shares, pictures
from rmt.tasks.segment.predictor import Mode, SegmentPredictor, inference_from, load
from rmt.tasks.segment.prepare import prepare, settle
from rmt.tasks.segment.scoring import describe, evaluate_checkpoint
from rmt.tasks.task import Task


class Segmentation(Task[SegmentRecipe, SegmentModule]):
    """Gives every pixel of an image a class."""

    bulky = ("confusion",)
    settle = staticmethod(settle)
    prepare = staticmethod(prepare)
    finish = staticmethod(finish)
    summary = staticmethod(summary)
    load = staticmethod(load)
    evaluate = staticmethod(evaluate_checkpoint)
    describe = staticmethod(describe)

    draws = True

    def answer(
        self,
        network: SegmentPredictor,
        image: Path,
        *,
        inference: Mode | None = None,
        flip: bool = False,
        scales: tuple[float, ...] = (1.0,),
        batch_size: int = 4,
    ) -> Answer:
        photo = read_image(image)
        looking = inference_from(network.metadata, batch_size, inference, flip, scales)
        labels: np.ndarray = network.segment(photo, looking).numpy()
        shares = class_shares(labels, network.classes)
        text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:5])
        return Answer(text, {"shares": shares}, pictures(photo, labels, network.classes))


TASK = Segmentation()
