"""What `rmt predict` gives: each image's answer, and the folder that takes the pictures of all of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from rmt.atomic import replace_file, write_text
from rmt.output_folder import create_folder, require_empty, unused_path

FOLDER = Path("predictions")
"""Where pictures go unless another folder is asked for."""
DOCUMENT = "predictions.json"


@dataclass(frozen=True)
class Answer:
    """What a network says of one image.

    Attributes:
        text: in a line.
        values: as JSON values.
        pictures: kind to picture, such as "overlay"; kinds are a task's own, the same for every image.
    """

    text: str
    values: dict[str, Any]
    pictures: dict[str, Image.Image] = field(default_factory=dict)


class PredictionFolder:
    """The pictures of some images, two of which may be called alike, in a folder that holds nothing else.

    Args:
        output: the folder, made when the first file is written; None takes `predictions`, or, since earlier answers
            are never added to, the first of `predictions-2`, … that does not exist.
        images: every image that pictures will be written of.

    Raises RMTError when `output` is a file or holds files already.
    """

    def __init__(self, output: Path | None, images: Sequence[Path]) -> None:
        self.path = unused_path(FOLDER) if output is None else output
        require_empty(self.path)
        self.stems = distinct([image.stem for image in images])

    def write(self, number: int, pictures: dict[str, Image.Image]) -> dict[str, str]:
        """Writes the pictures of image `number` as STEM-KIND.png, or STEM.png where there is one kind; kind to path."""
        create_folder(self.path)
        written = {}
        for kind, picture in pictures.items():
            name = f"{self.stems[number]}-{kind}.png" if len(pictures) > 1 else f"{self.stems[number]}.png"
            with replace_file(self.path / name) as draft:
                picture.save(draft, format="PNG")
            written[kind] = str(self.path / name)
        return written

    def write_document(self, content: dict[str, Any]) -> None:
        """Writes what there is to say of all images together, as `predictions.json`."""
        create_folder(self.path)
        write_text(self.path / DOCUMENT, json.dumps(content) + "\n")


def distinct(names: Sequence[str]) -> list[str]:
    """The names, with -2, -3, … behind those that stand before already, in capitals or not, as file systems compare."""
    taken: set[str] = set()
    found = []
    for name in names:
        candidate, number = name, 1
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}-{number}"
        taken.add(candidate.casefold())
        found.append(candidate)
    return found
