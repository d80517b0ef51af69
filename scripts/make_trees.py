"""Make a COCO data set of trees in aerial photographs, from those in the Python package deepforest (MIT licence).

    python -m pip download --no-deps deepforest==2.1.0
    python scripts/make_trees.py --wheel deepforest-2.1.0-py3-none-any.whl --output trees [--size 320] [--overlap 80]

The package contains four photographs with boxes in VOC XML; its code is not executed. They are cut into tiles. A box
belongs to every tile that shows at least `MIN_VISIBLE` of it, and is clipped to it. Tiles are written to `train/*.png`
and `val/*.png` with `annotations/instances_{train,val}.json`. The splits are made of different photographs, taken
kilometres apart; `sources.json` lists them. Dead and living trees are one class.
"""

import argparse
import io
import json
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

#: Annotation files and their photographs, by split. OSBS_029 is in the package as PNG and TIFF; the PNG is used.
SOURCES = {
    "train": {
        "2019_YELL_2_528000_4978000_image_crop2.xml": "2019_YELL_2_528000_4978000_image_crop2.png",
        "OSBS_029.xml": "OSBS_029.png",
    },
    "val": {
        "2019_YELL_2_541000_4977000_image_crop.xml": "2019_YELL_2_541000_4977000_image_crop.png",
        "SOAP_061.xml": "SOAP_061.png",
    },
}
FOLDER = "deepforest/data/"
MIN_VISIBLE = 0.4  # part of a box's area in a tile, for the box to belong to it

Box = tuple[float, float, float, float]  # left, top, right, bottom


def read_boxes(xml: bytes) -> list[Box]:
    """Return the boxes of a VOC annotation."""
    boxes = []
    for item in ElementTree.fromstring(xml).iter("object"):
        corners = item.find("bndbox")
        if corners is None:
            raise SystemExit("an object without a bndbox: not the package's annotations?")
        left, top, right, bottom = (float(corners.findtext(k, "nan")) for k in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append((left, top, right, bottom))
    return boxes


def tile_starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where tiles of `size` start along a side, to cover all of it with an overlap of at least `overlap`."""
    if length <= size:
        return [0]
    count = -(-(length - overlap) // (size - overlap))
    return [round(i * (length - size) / (count - 1)) for i in range(count)]


def boxes_in(boxes: list[Box], left: int, top: int, width: int, height: int) -> list[Box]:
    """Return the boxes that are visible enough in a tile, clipped to it, in pixels of the tile."""
    found = []
    for x1, y1, x2, y2 in boxes:
        visible = (max(x1, left), max(y1, top), min(x2, left + width), min(y2, top + height))
        area = max(visible[2] - visible[0], 0) * max(visible[3] - visible[1], 0)
        if area >= MIN_VISIBLE * (x2 - x1) * (y2 - y1) > 0:
            found.append((visible[0] - left, visible[1] - top, visible[2] - left, visible[3] - top))
    return found


def cut(photo: Image.Image, boxes: list[Box], size: int, overlap: int) -> list[tuple[str, Image.Image, list[Box]]]:
    """Return (place, tile, boxes) of every tile with a box."""
    tiles = []
    for top in tile_starts(photo.height, size, overlap):
        for left in tile_starts(photo.width, size, overlap):
            width, height = min(size, photo.width), min(size, photo.height)
            inside = boxes_in(boxes, left, top, width, height)
            tile = photo.crop((left, top, left + width, top + height))
            if (
                inside and np.asarray(tile).any(axis=2).mean() > 0.5
            ):  # less than half is black, outside the photographed area
                tiles.append((f"{left}-{top}", tile, inside))
    return tiles


def make(wheel: Path, output: Path, size: int, overlap: int) -> None:
    if output.exists() and any(output.iterdir()):
        raise SystemExit(f"{output} is not empty")
    with zipfile.ZipFile(wheel) as package:
        for split, sources in SOURCES.items():
            (output / split).mkdir(parents=True)
            images: list[dict[str, Any]] = []
            annotations: list[dict[str, Any]] = []
            for xml, picture in sources.items():
                photo = Image.open(io.BytesIO(package.read(FOLDER + picture))).convert("RGB")
                for place, tile, boxes in cut(photo, read_boxes(package.read(FOLDER + xml)), size, overlap):
                    name = f"{PurePosixPath(picture).stem}-{place}.png"
                    tile.save(output / split / name)
                    number = len(images) + 1
                    images.append({"id": number, "file_name": name, "width": tile.width, "height": tile.height})
                    annotations += [_annotation(len(annotations) + i + 1, number, box) for i, box in enumerate(boxes)]
            content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "tree"}]}
            target = output / "annotations" / f"instances_{split}.json"
            target.parent.mkdir(exist_ok=True)
            target.write_text(json.dumps(content), encoding="utf-8")
            print(f"{target}: {len(images)} tiles, {len(annotations)} boxes")
    photos = {split: sorted(sources.values()) for split, sources in SOURCES.items()}
    (output / "sources.json").write_text(json.dumps(photos, indent=2) + "\n", encoding="utf-8")


def _annotation(number: int, image: int, box: Box) -> dict[str, Any]:
    left, top, right, bottom = box
    sides = [right - left, bottom - top]
    rest = {"area": sides[0] * sides[1], "iscrowd": 0, "category_id": 1}
    return {"id": number, "image_id": image, "bbox": [left, top, *sides], **rest}


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("--wheel", type=Path, required=True, help="deepforest-2.1.0-py3-none-any.whl")
    parser.add_argument("--output", type=Path, required=True, help="folder to create")
    parser.add_argument("--size", type=int, default=320, help="side of the tiles in pixels")
    parser.add_argument("--overlap", type=int, default=80, help="least overlap of neighbouring tiles in pixels")
    args = parser.parse_args()
    if not args.wheel.is_file():
        raise SystemExit(f"{args.wheel}: no such file; python -m pip download --no-deps deepforest==2.1.0")
    if not 0 <= args.overlap < args.size:
        raise SystemExit("--overlap must be at least 0 and less than --size")
    make(args.wheel, args.output, args.size, args.overlap)


if __name__ == "__main__":
    main()
