"""Data as Roboflow, CVAT, Label Studio, labelme and LabelImg write them are read without an option."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import detection_sets, tool_exports

from rmt.data.detection.layouts import detection_layout, open_detection, open_detection_split
from rmt.errors import RMTError


def stem(name):
    return Path(name).stem.removesuffix("_jpg.rf.0123456789abcdef0123456789abcdef")


def assert_found(images, pictures):
    """The images and objects are those of the pictures, to the rounding of the files."""
    expected = {picture.stem: picture for picture in pictures}
    assert {stem(images.name(index)) for index in range(len(images))} == expected.keys()
    for index in range(len(images)):
        picture, objects = expected[stem(images.name(index))], images.objects(index)
        assert np.array_equal(np.asarray(images.load(index)), np.asarray(picture.image))
        assert [images.classes[label] for label in objects.labels] == [name for name, *_ in picture.objects]
        assert np.allclose(objects.boxes, [box for _, *box in picture.objects] or np.empty((0, 4)), atol=0.3)


def opened(root, **options):
    return open_detection(detection_layout(str(root)), with_masks=False, empty_images=True, **options)


@pytest.mark.parametrize("make", tool_exports.DIVIDED)
def test_exports_that_are_divided(tmp_path, make):
    made = detection_sets.splits()
    train, val, _ = opened(make(tmp_path, made))
    assert train.classes == val.classes == detection_sets.CLASSES
    assert_found(train, made["train"])
    assert_found(val, made["val"])
    layout = detection_layout(str(tmp_path))
    assert_found(open_detection_split(layout, with_masks=False, split="test").images, made["test"])


@pytest.mark.parametrize("make", tool_exports.WHOLE)
def test_exports_that_are_not(tmp_path, make):
    made = detection_sets.splits()
    layout = detection_layout(str(make(tmp_path, made)))
    images = open_detection_split(layout, with_masks=False).images
    assert images.classes == detection_sets.CLASSES
    assert_found(images, [picture for found in made.values() for picture in found])
    train, val, _ = opened(tmp_path, holdout=0.25)
    assert len(train) + len(val) == len(images)


def test_a_task_of_cvat_without_parts(tmp_path):
    """Its lists and files are called `default`."""
    made = {"train": detection_sets.pictures(6, 1)}
    for make, old, new in (
        (tool_exports.cvat_coco, "annotations/instances_Train.json", "annotations/instances_default.json"),
        (tool_exports.cvat_coco, "images/Train", "images/default"),
        (tool_exports.cvat_voc, "ImageSets/Main/Train.txt", "ImageSets/Main/default.txt"),
    ):
        root = tmp_path / make.__name__
        if not root.exists():
            make(root, made)
        (root / old).rename(root / new)
    for name in ("cvat_coco", "cvat_voc"):
        images = open_detection_split(detection_layout(str(tmp_path / name)), with_masks=False).images
        assert_found(images, made["train"])


def labelme(root, shapes, name="a", **changes):
    detection_sets.write(root / f"{name}.png", detection_sets.pictures(1, 3)[0].image)
    content = {"version": "5", "shapes": shapes, "imagePath": f"{name}.png", "imageHeight": 64, "imageWidth": 80}
    detection_sets.write(root / f"{name}.json", json.dumps(content | changes))


def shape(label, points, kind="polygon", group=None):
    return {"label": label, "points": points, "shape_type": kind, "group_id": group}


SQUARE = [[10, 10], [30, 10], [30, 30], [10, 30]]


def test_masks_of_labelme(tmp_path):
    other = [[50, 40], [60, 40], [60, 50], [50, 50]]
    shapes = [shape("a", SQUARE, group=1), shape("a", other, group=1), shape("b", SQUARE)]
    labelme(tmp_path, [*shapes, shape("c", [[40, 32], [50, 32]], "circle"), shape("__ignore__", SQUARE)])
    layout = detection_layout(str(tmp_path))
    images = open_detection_split(layout, with_masks=True).images
    objects = images.objects(0)
    assert [images.classes[label] for label in objects.labels] == ["a", "b", "c"]
    assert [int(mask.sum()) for mask in objects.masks[:2]] == [400 + 100, 400]
    assert abs(int(objects.masks[2].sum()) - np.pi * 100) < 12
    assert objects.boxes[0].tolist() == [10, 10, 60, 50]


def test_faults_of_labelme(tmp_path):
    labelme(
        tmp_path / "all", [shape("a", SQUARE), shape("b", [[1, 1]], "point"), shape("", SQUARE), "x", shape(3, None)]
    )
    labelme(tmp_path / "all", [shape("a", SQUARE)], "b", imageHeight=None)
    labelme(tmp_path / "all", [shape("a", SQUARE)], "c", imagePath="..\\elsewhere\\c.png")
    labelme(tmp_path / "all", [shape("a", SQUARE)], "d")
    (tmp_path / "all/d.png").unlink()
    (tmp_path / "all/e.json").write_text('{"shapes": [')
    images = open_detection_split(detection_layout(str(tmp_path / "all")), with_masks=False).images
    assert len(images) == 3 and images.classes == ("a",)
    assert images.skipped["shape that is no polygon, rectangle or circle with a label"] == 4
    assert images.skipped["image whose file is missing"] == images.skipped["annotation file that cannot be read"] == 1
    labelme(tmp_path / "none", [])
    with pytest.raises(RMTError, match="no object in any file of labelme"):
        open_detection_split(detection_layout(str(tmp_path / "none")), with_masks=False)


def test_labelme_in_folders_of_splits(tmp_path):
    made = detection_sets.splits()
    for split, found in made.items():
        tool_exports.labelme_json(tmp_path / split.capitalize(), {split: found})
    train, val, _ = opened(tmp_path)
    assert_found(train, made["train"])
    assert_found(val, made["val"])
