"""`rmt check DATA`: look at data without training."""

import json as json_module
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rmt.recipes.detect import Boxes
from rmt.terminal import say


def run(
    data: Annotated[str, tyro.conf.Positional],
    *,
    task: Literal["classify", "detect", "segment"] | None = None,
    classes: str = "",
    zero_is_ignored: bool = False,
    annotations: Path | None = None,
    boxes: Boxes = "auto",
    max_images: int = 2000,
    output: Path | None = None,
    json: Path | None = None,
) -> int:
    """Look at data without training: layout, splits, classes, sizes, problems with remedies, what to run next.

    Writes a sheet of pictures with their labels drawn. The exit code is 1 if training would refuse the data.

    Args:
        data: The data, as for training: a folder, an address of shards, `sample`, or the `data.yaml` of a YOLO set.
        task: What the data are for; guessed from the files if not given.
        classes: Segmentation: the class list, instead of the one in the folder.
        zero_is_ignored: Segmentation: mask value 0 is ignored, and the classes start at 1.
        annotations: Detection: a COCO-format JSON that lists images of the folder DATA.
        boxes: Detection: the form of the boxes in COCO-format files, as in training.
        max_images: Images of each split to decode, evenly spread; 0 decodes all. The other facts are of all images.
        output: The file of the sheet; check-NAME.png in the current folder by default.
        json: Also write everything that was found to this JSON file.
    """
    from rmt.atomic import write_text
    from rmt.check.look import check, save_sheet
    from rmt.check.opened import Where
    from rmt.errors import RMTError
    from rmt.output_folder import require_writable

    if max_images < 0:
        raise RMTError(f"--max-images must be at least 0, not {max_images}")
    name = Path(data).expanduser().resolve().name if "://" not in data else data.rstrip("/").rpartition("/")[2]
    target = output or Path(f"check-{name or 'data'}.png")
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise RMTError(f"--output {target}: name a .png or .jpg file for the sheet of pictures")
    require_writable(target, json)
    report, opened = check(Where(data, classes, zero_is_ignored, annotations, boxes), task, max_images)
    for line in report.lines():
        say(line)
    if save_sheet(opened, target):
        say(f"pictures: {target}")
    if json is not None:
        write_text(json, json_module.dumps(report.as_dict(), indent=2) + "\n")
    return 0 if report.usable else 1
