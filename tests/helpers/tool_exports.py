"""The detection set of `detection_sets`, in the shape in which tools write it: made by hand after their exports."""

import json
from pathlib import Path
from typing import Any

from helpers.detection_sets import CLASSES, Picture, write, xml_of, yolo_of

Made = dict[str, list[Picture]]


def _boxes(picture: Picture) -> list[tuple[str, list[float]]]:
    return [(name, [left, top, right - left, bottom - top]) for name, left, top, right, bottom in picture.objects]


def _coco(found: list[Picture], names: Any, categories: list[dict[str, Any]], *, image: Any = None, **more: Any) -> str:
    """COCO's lists: `names` gives the file name of a picture, `image` more of its record, `more` of each annotation."""
    number = {record["name"]: record["id"] for record in categories}
    images, annotations = [], []
    for index, picture in enumerate(found):
        width, height = picture.image.size
        extra = image(picture) if image else {}
        images.append({"id": index, "file_name": names(picture), "height": height, "width": width, **extra})
        for name, box in _boxes(picture):
            entry = {"id": len(annotations), "image_id": index, "category_id": number[name], "bbox": box}
            annotations.append({**entry, "area": box[2] * box[3], "segmentation": [], "iscrowd": 0, **more})
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})


def _hashed(picture: Picture) -> str:
    """Roboflow's names."""
    return f"{picture.stem}_jpg.rf.0123456789abcdef0123456789abcdef.png"


def _folder(split: str) -> str:
    return split.replace("val", "valid")


def roboflow_coco(root: Path, made: Made) -> Path:
    """A root category 0; names with a hash; the original name under `extra`."""
    categories: list[dict[str, Any]] = [{"id": 0, "name": "shapes", "supercategory": "none"}]
    categories += [{"id": n, "name": name, "supercategory": "shapes"} for n, name in enumerate(CLASSES, 1)]
    for split, found in made.items():
        more = dict(image=lambda p: {"license": 1, "date_captured": "2024-05-01", "extra": {"name": f"{p.stem}.jpg"}})
        write(root / _folder(split) / "_annotations.coco.json", _coco(found, _hashed, categories, **more))
        for picture in found:
            write(root / _folder(split) / _hashed(picture), picture.image)
    write(root / "README.roboflow.txt", "shapes - v1\n")
    return root


def roboflow_voc(root: Path, made: Made) -> Path:
    """XML files beside the images, corners in another order, a source."""
    for split, found in made.items():
        for picture in found:
            text = xml_of(picture).replace("<folder>x</folder>", "<folder></folder>")
            text = text.replace("</filename>", "</filename><source><database>roboflow.com</database></source>")
            text = text.replace("<difficult>0</difficult>", "<pose>Unspecified</pose><truncated>0</truncated>")
            write(root / _folder(split) / _hashed(picture), picture.image)
            write(root / _folder(split) / _hashed(picture).replace(".png", ".xml"), text)
    write(root / "README.dataset.txt", "https://universe.roboflow.com/x\n")
    return root


def roboflow_yolo(root: Path, made: Made) -> Path:
    """A data.yaml whose paths lead out of the folder, with a block of its own."""
    lines = [f"{split}: ../{_folder(split)}/images" for split in made]
    lines += ["", f"nc: {len(CLASSES)}", f"names: {list(CLASSES)}", "", "roboflow:", "  workspace: x", "  version: 1"]
    write(root / "data.yaml", "\n".join(lines) + "\n")
    for split, found in made.items():
        for picture in found:
            write(root / _folder(split) / "images" / _hashed(picture), picture.image)
            write(root / _folder(split) / "labels" / _hashed(picture).replace(".png", ".txt"), yolo_of(picture).strip())
    return root


def _subset(split: str) -> str:
    """CVAT's names of the parts of a task."""
    return {"train": "Train", "val": "Validation", "test": "Test"}[split]


def cvat_coco(root: Path, made: Made) -> Path:
    """`annotations/instances_Train.json`, `images/Train`; floats and attributes."""
    categories = [{"id": n, "name": name, "supercategory": ""} for n, name in enumerate(CLASSES, 1)]
    for split, found in made.items():
        text = _coco(
            found,
            lambda p: f"{p.stem}.png",
            categories,
            image=lambda p: {"license": 0, "flickr_url": "", "coco_url": "", "date_captured": 0},
            attributes={"occluded": False, "rotation": 0.0},
        )
        write(root / f"annotations/instances_{_subset(split)}.json", text)
        for picture in found:
            write(root / f"images/{_subset(split)}/{picture.stem}.png", picture.image)
    return root


def cvat_voc(root: Path, made: Made) -> Path:
    """`labelmap.txt`, lists also for each class, corners as floats from 0."""
    write(root / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\nbar:1,2,3::\ndisc:4,5,6::\n")
    for split, found in made.items():
        write(root / f"ImageSets/Main/{_subset(split)}.txt", "\n".join(picture.stem for picture in found) + "\n")
        for name in CLASSES:
            lines = [f"{p.stem} {1 if any(o[0] == name for o in p.objects) else -1}" for p in found]
            write(root / f"ImageSets/Main/{name}_{_subset(split)}.txt", "\n".join(lines) + "\n")
        for picture in found:
            text = xml_of(picture, first=0)
            for key in ("xmin", "ymin", "xmax", "ymax"):
                text = text.replace(f"</{key}>", f".25</{key}>")
            write(root / f"JPEGImages/{picture.stem}.png", picture.image)
            write(root / f"Annotations/{picture.stem}.xml", text.replace("<pose/>", ""))
    return root


def cvat_yolo(root: Path, made: Made) -> Path:
    """YOLO 1.1: `obj.data`, `obj.names`, `obj_Train_data/` with text files beside the images, lists with `data/`."""
    write(root / "obj.names", "\n".join(CLASSES) + "\n")
    write(
        root / "obj.data",
        f"classes = {len(CLASSES)}\ntrain = data/Train.txt\nnames = data/obj.names\nbackup = backup/\n",
    )
    for split, found in made.items():
        folder = f"obj_{_subset(split)}_data"
        write(root / f"{_subset(split)}.txt", "".join(f"data/{folder}/{p.stem}.png\n" for p in found))
        for picture in found:
            write(root / folder / f"{picture.stem}.png", picture.image)
            write(root / folder / f"{picture.stem}.txt", yolo_of(picture))
    return root


def cvat_ultralytics(root: Path, made: Made) -> Path:
    """`data.yaml` with lists, whose lines begin with `data/`."""
    lines = [f"{_subset(split)}: {_subset(split)}.txt" for split in made]
    write(
        root / "data.yaml",
        "\n".join([*lines, "names:", *(f"  {n}: {name}" for n, name in enumerate(CLASSES)), "path: .\n"]),
    )
    for split, found in made.items():
        write(root / f"{_subset(split)}.txt", "".join(f"data/images/{_subset(split)}/{p.stem}.png\n" for p in found))
        for picture in found:
            write(root / f"images/{_subset(split)}/{picture.stem}.png", picture.image)
            write(root / f"labels/{_subset(split)}/{picture.stem}.txt", yolo_of(picture))
    return root


def _all(made: Made) -> list[Picture]:
    return [picture for found in made.values() for picture in found]


def label_studio_coco(root: Path, made: Made) -> Path:
    """`result.json` and `images/`, ids from 0, names with a backslash after the folder."""
    categories = [{"id": n, "name": name} for n, name in enumerate(CLASSES)]
    write(root / "result.json", _coco(_all(made), lambda p: f"images\\{p.stem}.png", categories, ignore=0))
    for picture in _all(made):
        write(root / f"images/{picture.stem}.png", picture.image)
    return root


def label_studio_voc(root: Path, made: Made) -> Path:
    """`Annotations/` and `images/`, names without extension in the files."""
    for picture in _all(made):
        write(root / f"images/{picture.stem}.png", picture.image)
        text = xml_of(picture).replace(f"{picture.stem}.jpg", picture.stem)
        write(root / f"Annotations/{picture.stem}.xml", f'<?xml version="1.0" encoding="utf-8"?>\n{text}')
    return root


def label_studio_yolo(root: Path, made: Made) -> Path:
    """`classes.txt`, `notes.json`, `images/`, `labels/`."""
    write(root / "classes.txt", "\n".join(CLASSES) + "\n")
    notes = {"categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES)], "info": {"year": 2024}}
    write(root / "notes.json", json.dumps(notes))
    for picture in _all(made):
        write(root / f"images/{picture.stem}.png", picture.image)
        write(root / f"labels/{picture.stem}.txt", yolo_of(picture))
    return root


def labelme_json(root: Path, made: Made) -> Path:
    """The program's own files: rectangles by two corners in any order, polygons, the image's data."""
    for index, picture in enumerate(_all(made)):
        shapes = []
        for name, left, top, right, bottom in picture.objects:
            corners = [[float(right), float(top)], [float(left), float(bottom)]]
            kind = "rectangle"
            if index % 2:
                kind, corners = "polygon", [[left, top], [right, top], [right, bottom], [left, bottom]]
            flags: dict[str, Any] = {"group_id": None, "description": "", "shape_type": kind, "flags": {}}
            shapes.append({"label": name, "points": corners, **flags})
        width, height = picture.image.size
        content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{picture.stem}.png"}
        content |= {"imageData": "iVBORw0KGgo=", "imageHeight": height, "imageWidth": width}
        write(root / f"{picture.stem}.json", json.dumps(content, indent=2))
        write(root / f"{picture.stem}.png", picture.image)
    return root


def labelme_coco(root: Path, made: Made) -> Path:
    """What its script labelme2coco writes: `annotations.json`, `JPEGImages/`, category 0 for what is ignored."""
    categories = [{"supercategory": None, "id": n, "name": name} for n, name in enumerate(("_background_", *CLASSES))]
    write(root / "annotations.json", _coco(_all(made), lambda p: f"JPEGImages/{p.stem}.png", categories))
    for picture in _all(made):
        write(root / f"JPEGImages/{picture.stem}.png", picture.image)
    return root


def labelme_voc(root: Path, made: Made) -> Path:
    """What its script labelme2voc writes for boxes: `class_names.txt`, `AnnotationsVisualization/`."""
    write(root / "class_names.txt", "\n".join(("_background_", *CLASSES)) + "\n")
    for picture in _all(made):
        write(root / f"JPEGImages/{picture.stem}.png", picture.image)
        write(root / f"AnnotationsVisualization/{picture.stem}.png", picture.image)
        write(root / f"Annotations/{picture.stem}.xml", xml_of(picture))
    return root


def labelimg_voc(root: Path, made: Made) -> Path:
    """XML files beside the images, with the path on the machine of whoever labelled them."""
    for picture in _all(made):
        text = xml_of(picture).replace("</filename>", f"</filename><path>C:\\Users\\me\\{picture.stem}.png</path>")
        write(root / f"{picture.stem}.png", picture.image)
        write(root / f"{picture.stem}.xml", text)
    return root


def labelimg_yolo(root: Path, made: Made) -> Path:
    """Text files beside the images, `classes.txt` among them."""
    write(root / "classes.txt", "\n".join(CLASSES) + "\n")
    for picture in _all(made):
        write(root / f"{picture.stem}.png", picture.image)
        write(root / f"{picture.stem}.txt", yolo_of(picture))
    return root


DIVIDED = (roboflow_coco, roboflow_voc, roboflow_yolo, cvat_coco, cvat_voc, cvat_yolo, cvat_ultralytics)
WHOLE = (
    *(label_studio_coco, label_studio_voc, label_studio_yolo, labelme_json, labelme_coco, labelme_voc),
    *(labelimg_voc, labelimg_yolo),
)
