"""Detection, as the trainer and the commands see it."""

import json
from pathlib import Path
from typing import Any

from rmt.atomic import plain_disk_errors, replacing, write_text
from rmt.data.images import read_image
from rmt.errors import RMTError
from rmt.recipes.detect_schema import DetectRecipe
from rmt.tasks.detect.drawing import SURE, draw, found
from rmt.tasks.detect.finish import finish, summary
from rmt.tasks.detect.module import DetectModule
from rmt.tasks.detect.predictor import DetectionPredictor, load
from rmt.tasks.detect.prepare import prepare, settle
from rmt.tasks.detect.scoring import describe, evaluate_checkpoint
from rmt.tasks.task import Task


class Detection(Task[DetectRecipe, DetectModule]):
    """Finds objects in an image, with boxes and masks."""

    bulky = ("results",)
    settle = staticmethod(settle)
    prepare = staticmethod(prepare)
    finish = staticmethod(finish)
    summary = staticmethod(summary)
    load = staticmethod(load)
    evaluate = staticmethod(evaluate_checkpoint)
    describe = staticmethod(describe)

    def answer(
        self,
        network: DetectionPredictor,
        image: Path,
        *,
        output: Path = Path("predictions"),
        threshold: float = SURE,
    ) -> tuple[str, dict[str, Any]]:
        """What is in an image; `output` gets the picture with boxes and masks, and `predictions.json` of all of them.

        The JSON is in COCO's format, images and categories included, and holds every object that was found; text and
        picture only those with a score of `threshold` or more.
        """
        if not 0 <= threshold <= 1:
            raise RMTError(f"--threshold must lie in [0, 1], not {threshold:g}")
        picture = read_image(image)
        (answer,) = network.predict(picture)
        shown = found(answer, network.classes, threshold)
        values = answer.results(0, network.category_ids)
        sure = [(network.classes[k], s) for k, s in zip(answer.labels, answer.scores, strict=True) if s >= threshold]
        text = (
            ", ".join(f"{name} {score:.2f}" for name, score in sure) or f"nothing at a score of {threshold:g} or more"
        )
        with plain_disk_errors(output):
            output.mkdir(parents=True, exist_ok=True)
        _append(output / "predictions.json", network, image, picture.size, values)
        target = _unused(output / f"{image.stem}.png")
        with replacing(target) as draft:
            draw(picture, shown).save(draft, format="png")
        objects = [{key: value for key, value in entry.items() if key != "image_id"} for entry in values]
        return f"{text} ({target})", {"objects": objects, "picture": str(target)}


def _append(file: Path, network: DetectionPredictor, image: Path, size: tuple[int, int], values: list[dict]) -> None:
    """Adds an image and its objects to a COCO-format file; ids go on from those that are there."""
    pairs = zip(network.category_ids, network.classes, strict=True)
    categories = [{"id": number, "name": name} for number, name in pairs if number is not None]
    content: dict[str, Any] = {"images": [], "annotations": [], "categories": categories}
    if file.exists():
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("categories") != categories:
            raise RMTError(f"{file} holds what a network with other classes found: choose another --output")
    number = len(content["images"]) + 1
    content["images"].append({"id": number, "file_name": str(image), "width": size[0], "height": size[1]})
    for entry in values:
        box = entry["bbox"]
        facts = {"id": len(content["annotations"]) + 1, "image_id": number, "iscrowd": 0, "area": box[2] * box[3]}
        content["annotations"].append({**entry, **facts})
    write_text(file, json.dumps(content) + "\n")


def _unused(path: Path) -> Path:
    """The path, with -2, -3, … where pictures of several folders have one name."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate


TASK = Detection()
