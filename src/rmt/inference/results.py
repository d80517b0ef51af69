"""What `rmt predict` shows of each image, and the folder for its pictures."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from rmt.atomic import replace_file, write_text
from rmt.output_folder import create_folder, require_empty, unused_path

FOLDER = Path("predictions")
"""Where pictures go without `--output`."""
DOCUMENT = "predictions.json"
_MOST_BYTES = 180  # of the names of pictures
_COMPRESSION = 1  # of PNG: the default of 6 takes several times as long for files that are hardly smaller


@dataclass(frozen=True)
class ImageResult:
    """The prediction for one image, as `rmt predict` shows it.

    Attributes:
        text: the prediction in one line.
        values: the prediction as JSON values.
        draw: draws the pictures; use `pictures`, which calls it once.
    """

    text: str
    values: dict[str, Any]
    draw: Callable[[], dict[str, Image.Image]] = dict

    @cached_property
    def pictures(self) -> dict[str, Image.Image]:
        """Kind, such as "overlay", to picture, drawn at first use; the kinds are the same for every image of a task."""
        return self.draw()


class PredictionFolder:
    """A new or empty folder for the pictures of some images, whose names may be equal.

    Args:
        output: the folder, created with the first file. With None it is `predictions`, or the first of
            `predictions-2`, … that does not exist, so that nothing is added to earlier predictions.
        stems: the name without extension of every image that pictures will be written of.
    Raises:
        RMTError: `output` is a file or holds files already.
    """

    def __init__(self, output: Path | None, stems: Sequence[str]) -> None:
        self.path: Path = unused_path(FOLDER) if output is None else output
        require_empty(self.path)
        self.stems: list[str] = unique_names([_fitted(stem) for stem in stems])

    def write(self, number: int, pictures: dict[str, Image.Image]) -> dict[str, str]:
        """Writes the pictures of image `number`: STEM.png, or STEM-KIND.png where there are several kinds.

        Returns each kind's path.
        """
        create_folder(self.path)
        written = {}
        for kind, picture in pictures.items():
            name = f"{self.stems[number]}-{kind}.png" if len(pictures) > 1 else f"{self.stems[number]}.png"
            with replace_file(self.path / name) as draft:
                picture.save(draft, format="PNG", compress_level=_COMPRESSION)
            written[kind] = str(self.path / name)
        return written

    def write_document(self, content: dict[str, Any]) -> None:
        """Writes `predictions.json`, which covers all images."""
        create_folder(self.path)
        write_text(self.path / DOCUMENT, json.dumps(content) + "\n")


def _fitted(stem: str) -> str:
    """The first bytes of a long name: files of 255 bytes are the limit, and endings are added."""
    return os.fsencode(stem)[:_MOST_BYTES].decode("utf-8", "ignore") if len(stem) > _MOST_BYTES // 4 else stem


def unique_names(names: Sequence[str]) -> list[str]:
    """Returns the names with -2, -3, … appended to repeated ones; case is ignored, as some file systems do."""
    taken: set[str] = set()
    tried: dict[str, int] = {}  # the last number of each name, since a million images may have one name
    unique = []
    for name in names:
        candidate, number = name, tried.get(name.casefold(), 1)
        while candidate.casefold() in taken:
            number += 1
            candidate = f"{name}-{number}"
        tried[name.casefold()] = number
        taken.add(candidate.casefold())
        unique.append(candidate)
    return unique
