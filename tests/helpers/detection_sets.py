"""One small detection set, written in every layout that is read: red discs and blue bars on grey."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("bar", "disc")  # in alphabetical order
SIZE = (80, 64)  # width, height


class Picture(NamedTuple):
    """An image and its objects: (class, left, top, right, bottom), whole pixels."""

    stem: str
    image: Image.Image
    objects: list[tuple[str, int, int, int, int]]


def pictures(count: int, seed: int, prefix: str = "photo") -> list[Picture]:
    """One or two rectangles each; the last one has none if there are more than three."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(count):
        pixels = np.full((SIZE[1], SIZE[0], 3), 90, dtype=np.uint8)
        pixels[0, 0] = (seed, number, 0)  # no two files are equal
        objects = []
        for _ in range(0 if number == count - 1 and count > 3 else int(draw.integers(1, 3))):
            w, h = (int(v) for v in draw.integers(10, 30, 2))
            left, top = int(draw.integers(1, SIZE[0] - w)), int(draw.integers(1, SIZE[1] - h))
            name = CLASSES[number % 2]
            pixels[top : top + h, left : left + w] = (220, 40, 40) if name == "disc" else (40, 40, 220)
            objects.append((name, left, top, left + w, top + h))
        made.append(Picture(f"{prefix}_{seed}{number:02d}", Image.fromarray(pixels), objects))
    return made


def splits(train: int = 6, val: int = 4, test: int = 3) -> dict[str, list[Picture]]:
    return {name: pictures(n, seed) for seed, (name, n) in enumerate(dict(train=train, val=val, test=test).items(), 1)}


def xml_of(picture: Picture, first: int = 1, size: bool = True) -> str:
    """VOC's XML; `first` is the number of the first pixel. The last pixel belongs to the box if that is 1."""
    width, height = picture.image.size
    parts = [f"<annotation><folder>x</folder><filename>{picture.stem}.jpg</filename>"]
    if size:
        parts.append(f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>")
    for name, *(left, top, right, bottom) in picture.objects:
        corners = zip(("xmin", "ymin", "xmax", "ymax"), (left + first, top + first, right, bottom), strict=True)
        box = "".join(f"<{key}>{value}</{key}>" for key, value in corners)
        parts.append(f"<object><name>{name}</name><difficult>0</difficult><bndbox>{box}</bndbox></object>")
    return "\n".join([*parts, "</annotation>"])


def yolo_of(picture: Picture, polygons: bool = False) -> str:
    """YOLO's lines, as boxes or as polygons of four corners."""
    width, height = picture.image.size
    lines = []
    for name, left, top, right, bottom in picture.objects:
        x0, y0, x1, y1 = left / width, top / height, right / width, bottom / height
        box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        shares = (x0, y0, x1, y0, x1, y1, x0, y1) if polygons else box
        lines.append(" ".join([str(CLASSES.index(name)), *(f"{share:.8f}" for share in shares)]))
    return "\n".join(lines) + "\n"


def coco_of(made: list[Picture]) -> str:
    """COCO's JSON with file names without a folder."""
    images, annotations = [], []
    for number, picture in enumerate(made, 1):
        width, height = picture.image.size
        images.append({"id": number, "file_name": f"{picture.stem}.png", "height": height, "width": width})
        for name, left, top, right, bottom in picture.objects:
            box = [left, top, right - left, bottom - top]
            entry = {"image_id": number, "category_id": CLASSES.index(name), "bbox": box, "segmentation": []}
            annotations.append({"id": len(annotations) + 1, "area": box[2] * box[3], "iscrowd": 0, **entry})
    categories = [{"id": number, "name": name} for number, name in enumerate(CLASSES)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def write(path: Path, content: str | Image.Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    else:
        content.save(path)
    return path


def make_voc(root: Path, made: dict[str, list[Picture]], first: int = 1) -> Path:
    """`JPEGImages` (as PNG), `Annotations`, `ImageSets/Main`."""
    for split, found in made.items():
        write(root / f"ImageSets/Main/{split}.txt", "\n".join(picture.stem for picture in found) + "\n")
        for picture in found:
            write(root / f"JPEGImages/{picture.stem}.png", picture.image)
            write(root / f"Annotations/{picture.stem}.xml", xml_of(picture, first))
    return root


def make_labelimg(root: Path, made: dict[str, list[Picture]]) -> Path:
    """XML files beside the images, undivided."""
    for picture in (picture for found in made.values() for picture in found):
        write(root / f"{picture.stem}.png", picture.image)
        write(root / f"{picture.stem}.xml", xml_of(picture))
    return root


def make_voc_splits(root: Path, made: dict[str, list[Picture]]) -> Path:
    """`train/`, `valid/`, `test/` with XML files beside the images, as Roboflow exports VOC."""
    for split, found in made.items():
        make_labelimg(root / split.replace("val", "valid"), {split: found})
    return root


def make_yolo(root: Path, made: dict[str, list[Picture]], polygons: bool = False) -> Path:
    """`images/train`, `labels/train` and so on, `classes.txt`."""
    write(root / "classes.txt", "\n".join(CLASSES) + "\n")
    for split, found in made.items():
        for picture in found:
            write(root / f"images/{split}/{picture.stem}.png", picture.image)
            if picture.objects:
                write(root / f"labels/{split}/{picture.stem}.txt", yolo_of(picture, polygons))
    return root


def make_ultralytics(root: Path, made: dict[str, list[Picture]]) -> Path:
    """`train/images`, `train/labels` and a `data.yaml` with paths that lead one folder too high, as exports have."""
    lines = [f"names: [{', '.join(CLASSES)}]", f"nc: {len(CLASSES)}"]
    for split, found in made.items():
        folder = split.replace("val", "valid")
        lines.append(f"{split}: ../{folder}/images")
        for picture in found:
            write(root / f"{folder}/images/{picture.stem}.png", picture.image)
            write(root / f"{folder}/labels/{picture.stem}.txt", yolo_of(picture))
    write(root / "data.yaml", "\n".join(lines) + "\n")
    return root


def make_darknet(root: Path, made: dict[str, list[Picture]]) -> Path:
    """Text files beside the images, and lists of the images."""
    write(root / "data.yaml", "names:\n  0: bar\n  1: disc\n" + "".join(f"{split}: {split}.txt\n" for split in made))
    for split, found in made.items():
        write(root / f"{split}.txt", "".join(f"./obj/{picture.stem}.png\n" for picture in found))
        for picture in found:
            write(root / f"obj/{picture.stem}.png", picture.image)
            write(root / f"obj/{picture.stem}.txt", yolo_of(picture))
    return root


def make_roboflow(root: Path, made: dict[str, list[Picture]]) -> Path:
    """COCO as Roboflow exports it: a JSON beside the images of each split."""
    for split, found in made.items():
        folder = root / split.replace("val", "valid")
        write(folder / "_annotations.coco.json", coco_of(found))
        for picture in found:
            write(folder / f"{picture.stem}.png", picture.image)
    return root


def make_coco_folder(root: Path, made: dict[str, list[Picture]]) -> Path:
    """COCO as downloaded; it has no annotated test images."""
    for split, found in made.items():
        if split != "test":
            write(root / f"annotations/instances_{split}2017.json", coco_of(found))
            for picture in found:
                write(root / f"{split}2017/{picture.stem}.png", picture.image)
    return root


DIVIDED = (make_voc, make_voc_splits, make_yolo, make_ultralytics, make_darknet, make_roboflow, make_coco_folder)
