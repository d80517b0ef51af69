"""Semantic segmentation, as the trainer and the commands see it."""

from pathlib import Path
from typing import Any

import numpy as np

from rmt.atomic import plain_disk_errors
from rmt.data.images import read_image
from rmt.errors import RMTError
from rmt.recipes.segment_schema import SegmentRecipe
from rmt.tasks.segment.finish import finish, summary
from rmt.tasks.segment.module import SegmentModule
from rmt.tasks.segment.overlay import class_shares, write_pictures
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

    def answer(
        self,
        network: SegmentPredictor,
        image: Path,
        *,
        output: Path = Path("predictions"),
        inference: Mode | None = None,
        flip: bool = False,
        scales: tuple[float, ...] = (1.0,),
        batch_size: int = 4,
    ) -> tuple[str, dict[str, Any]]:
        if output.exists() and not output.is_dir():
            raise RMTError(f"--output {output} is a file, not a folder")
        photo = read_image(image)
        looking = inference_from(network.metadata, batch_size, inference, flip, scales)
        labels: np.ndarray = network.segment(photo, looking).numpy()
        with plain_disk_errors(output):
            output.mkdir(parents=True, exist_ok=True)
        write_pictures(output, image.stem, photo, labels, network.classes)
        shares = class_shares(labels, network.classes)
        text = ", ".join(f"{name} {100 * share:.1f} %" for name, share in list(shares.items())[:5])
        files = {kind: str(output / f"{image.stem}-{kind}.png") for kind in ("overlay", "classes")}
        return f"{text}; see {files['overlay']}", {"shares": shares, **files}


TASK = Segmentation()
