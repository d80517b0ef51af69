"""Detection, as the trainer and the commands see it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmt.data.images import read_image
from rmt.errors import RMTError
from rmt.inference.boxes import SURE, draw, found
from rmt.inference.detect import DetectionPredictor, load
from rmt.inference.predictions import Answer
from rmt.tasks.detect.build import build, resolve
from rmt.tasks.detect.finish import finish, summary
from rmt.tasks.detect.scoring import describe, evaluate_checkpoint
from rmt.training.task import Task


def answer(network: DetectionPredictor, image: Path, *, threshold: float = SURE) -> Answer:
    """What is in an image: the values hold every object that was found, text and picture the likely ones.

    `threshold`: the least score of these.
    """
    if not 0 <= threshold <= 1:
        raise RMTError(f"--threshold must lie in [0, 1], not {threshold:g}")
    picture = read_image(image)
    (answer,) = network.predict(picture)
    sure = [(network.classes[k], s) for k, s in zip(answer.labels, answer.scores, strict=True) if s >= threshold]
    text = ", ".join(f"{name} {score:.2f}" for name, score in sure) or f"nothing at a score of {threshold:g} or more"
    objects = [
        {key: value for key, value in entry.items() if key != "image_id"}
        for entry in answer.results(0, network.category_ids)
    ]
    values = {"width": picture.width, "height": picture.height, "objects": objects}
    return Answer(text, values, {"picture": draw(picture, found(answer, network.classes, threshold))})


def document(network: DetectionPredictor, answers: Sequence[tuple[Path, Answer]]) -> dict[str, Any]:
    """Every object that was found in every image, in COCO's format, images and categories included."""
    pairs = zip(network.category_ids, network.classes, strict=True)
    content: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": number, "name": name} for number, name in pairs if number is not None],
    }
    for number, (image, answer) in enumerate(answers, start=1):
        size = {key: answer.values[key] for key in ("width", "height")}
        content["images"].append({"id": number, "file_name": str(image), **size})
        for entry in answer.values["objects"]:
            _, _, width, height = entry["bbox"]
            place = {"id": len(content["annotations"]) + 1, "image_id": number}
            content["annotations"].append({**place, **entry, "iscrowd": 0, "area": width * height})
    return content


TASK = Task(
    resolve=resolve,
    build=build,
    finish=finish,
    summary=summary,
    load=load,
    evaluate=evaluate_checkpoint,
    describe=describe,
    bulky=("results",),
    answer=answer,
    draws=True,
    document=document,
)
