"""Make a small COCO data set, to test whether a detector can overfit it, from the first images of a larger one.

    python scripts/take_images.py --data composites --count 8 --repeat 20 --output eight

The training split lists each image many times, so that an epoch has as many updates as with a large data set; the
validation split lists it once.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from rmt.data.detection.coco import find_split


def repeated(content: dict[str, Any], count: int, repeat: int) -> dict[str, Any]:
    """List the first `count` images and their objects `repeat` times, each time with new ids."""
    images = content["images"][:count]
    number = {image["id"]: place for place, image in enumerate(images)}
    objects = [item for item in content["annotations"] if item["image_id"] in number]
    taken: dict[str, Any] = {"images": [], "annotations": [], "categories": content["categories"]}
    for turn in range(repeat):
        first = turn * count + 1
        taken["images"] += [{**image, "id": first + number[image["id"]]} for image in images]
        start = len(taken["annotations"]) + 1
        taken["annotations"] += [
            {**item, "id": start + place, "image_id": first + number[item["image_id"]]}
            for place, item in enumerate(objects)
        ]
    return taken


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("--data", type=Path, required=True, help="a COCO folder")
    parser.add_argument("--count", type=int, default=8, help="images to take")
    parser.add_argument("--repeat", type=int, default=20, help="how often the training split lists each")
    parser.add_argument("--output", type=Path, required=True, help="folder to create")
    args = parser.parse_args()
    images, annotations = find_split(args.data, "train")
    content = json.loads(annotations.read_text(encoding="utf-8"))
    (args.output / "annotations").mkdir(parents=True)
    for split, repeat in (("train", args.repeat), ("val", 1)):
        taken = repeated(content, args.count, repeat)
        (args.output / split).mkdir()
        for image in taken["images"][: args.count]:
            shutil.copy(images / image["file_name"], args.output / split)
        target = args.output / "annotations" / f"instances_{split}.json"
        target.write_text(json.dumps(taken), encoding="utf-8")
        print(f"{target}: {len(taken['images'])} images, {len(taken['annotations'])} objects")


if __name__ == "__main__":
    main()
