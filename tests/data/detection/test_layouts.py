"""Every layout of a detection set gives the same images and objects, and its own faults in one line per kind."""

from pathlib import Path

import numpy as np
import pytest
from helpers import detection_sets as sets
from PIL import Image

from rmt.data.detection.layouts import detection_layout, open_detection, open_detection_split
from rmt.errors import RMTError


def opened(data, *, with_masks=False, split=None, **options):
    layout = detection_layout(str(data))
    if split:
        return open_detection_split(layout, with_masks=with_masks, split=split).images
    return open_detection(layout, with_masks=with_masks, empty_images=True, **options)


def found_in(images):
    """stem -> (pixels, objects), as `sets.Picture` has them."""
    result = {}
    for index in range(len(images)):
        objects = images.objects(index)
        rows = [
            (images.classes[label], *box) for label, box in zip(objects.labels, objects.boxes.tolist(), strict=True)
        ]
        result[Path(images.name(index)).stem] = (np.asarray(images.load(index)), rows)
    return result


def assert_same(images, made):
    found = found_in(images)
    assert found.keys() == {picture.stem for picture in made}
    for picture in made:
        pixels, rows = found[picture.stem]
        assert np.array_equal(pixels, np.asarray(picture.image))
        assert [row[0] for row in rows] == [row[0] for row in picture.objects]
        assert np.allclose([row[1:] for row in rows], [row[1:] for row in picture.objects], atol=1e-4)


@pytest.mark.parametrize("make", sets.DIVIDED)
def test_a_layout_is_read_as_it_is(tmp_path, make):
    made = sets.splits()
    train, val, skipped = opened(make(tmp_path, made))
    assert train.classes == val.classes == sets.CLASSES
    assert_same(train, made["train"])
    assert_same(val, made["val"])
    assert {kind for part in skipped.values() for kind in part} <= {"image without a label file (has no object)"}
    counts = {name: sum(row[0] == name for p in made["train"] for row in p.objects) for name in sets.CLASSES}
    assert train.class_counts() == counts
    if make is not sets.make_coco_folder:
        assert_same(opened(tmp_path, split="test"), made["test"])


def test_without_lists_some_images_are_held_out(tmp_path):
    made = sets.splits()
    train, val, skipped = opened(sets.make_labelimg(tmp_path, made), holdout=0.25, seed=1)
    names = [{images.name(i) for i in range(len(images))} for images in (train, val)]
    assert (len(train), len(val)) == (10, 3) and not names[0] & names[1]
    assert list(skipped) == ["train and val"]
    with pytest.raises(RMTError, match="--split test: the data have train only"):
        opened(tmp_path, split="test")


def test_undivided_yolo_and_a_test_list_without_a_validation_list(tmp_path):
    made = sets.splits()
    everything = [picture for found in made.values() for picture in found]
    sets.make_labelimg(tmp_path / "beside", {})  # nothing yet
    for picture in everything:
        sets.write(tmp_path / f"beside/{picture.stem}.png", picture.image)
        sets.write(tmp_path / f"beside/{picture.stem}.txt", sets.yolo_of(picture))
    train, val, _ = opened(tmp_path / "beside", holdout=0.2)
    assert len(train) + len(val) == 13 and train.classes == ("0", "1")
    assert "called by their numbers" in detection_layout(str(tmp_path / "beside")).choices[0]
    voc = sets.make_voc(tmp_path / "voc", made)
    (voc / "ImageSets/Main/train.txt").rename(voc / "ImageSets/Main/trainval.txt")
    (voc / "ImageSets/Main/val.txt").unlink()
    train, val, _ = opened(voc, holdout=0.5)
    tested = found_in(opened(voc, split="test"))
    assert len(train) + len(val) == 6 and not tested.keys() & (found_in(train).keys() | found_in(val).keys())


def test_a_list_of_images_to_train_and_validate_leaves_out_those_to_validate(tmp_path):
    made = sets.splits()
    voc = sets.make_voc(tmp_path, made)
    lists = voc / "ImageSets/Main"
    both = (lists / "val.txt").read_text() + (lists / "train.txt").read_text()
    (lists / "train.txt").unlink()
    (lists / "trainval.txt").write_text(both)
    train, val, _ = opened(voc)
    assert_same(train, made["train"])
    assert_same(val, made["val"])
    assert "training images are those of trainval.txt that val.txt lacks" in detection_layout(str(voc)).choices


def test_a_data_yaml_is_data_too(tmp_path):
    made = sets.splits()
    root = sets.make_ultralytics(tmp_path, made)
    assert_same(opened(root / "data.yaml").train, made["train"])
    (root / "data.yaml").write_text("names: [no, on]\ntrain: [train/images]\nval: valid/images\n")
    assert opened(root).train.classes == ("no", "on")  # YAML's words for false and true
    (root / "data.yaml").write_text("names: [no, on]\ntrain: images/elsewhere\n")
    with pytest.raises(RMTError, match="data.yaml: train: there is no images/elsewhere"):
        detection_layout(str(root))


def test_a_class_list_numbers_yolo_s_classes(tmp_path):
    root = sets.make_yolo(tmp_path, sets.splits())
    assert opened(root).train.classes == ("bar", "disc")
    sets.write(root / "classes.txt", "bar\nbar\ndisc\n")  # disc has the number 2
    with pytest.raises(RMTError, match="categories of the same name: bar"):
        opened(root)


def test_keypoints_after_a_box_are_no_polygon(tmp_path):
    made = sets.splits()
    root = sets.make_ultralytics(tmp_path, made)
    for file in root.glob("*/labels/*.txt"):
        lines = file.read_text().splitlines()
        file.write_text("".join(f"{line} 0.1 0.2 0.3 0.9\n" for line in lines if line))
    with open(root / "data.yaml", "a") as file:
        file.write("kpt_shape: [2, 2]\n")
    train = opened(root).train
    assert_same(train, made["train"])
    assert not train.table.has_masks.any() and "keypoints are left out" in detection_layout(str(root)).choices


def test_polygons_are_masks(tmp_path):
    made = sets.splits()
    images = opened(sets.make_yolo(tmp_path, made, polygons=True), with_masks=True).train
    assert_same(images, made["train"])
    for index in range(len(images)):
        objects = images.objects(index)
        for (left, top, right, bottom), mask in zip(objects.boxes.round().astype(int), objects.masks, strict=True):
            inside = np.zeros_like(mask)
            inside[top:bottom, left:right] = 1
            assert np.array_equal(mask, inside)
    areas = [entry["area"] for entry in images.ground_truth()["annotations"]]
    assert np.allclose(areas, [(r - x) * (b - y) for p in made["train"] for _, x, y, r, b in p.objects], atol=0.01)
    with pytest.raises(RMTError, match="no masks: train a detector without them"):
        opened(sets.make_yolo(tmp_path / "boxes", made), with_masks=True)


@pytest.mark.parametrize(("first", "said"), [(1, "pixel numbers from 1"), (0, "coordinates from 0")])
def test_voc_boxes_from_one_and_from_zero(tmp_path, first, said):
    made = sets.splits()
    name, _, _, right, bottom = made["val"][0].objects[0]
    made["val"][0].objects[0] = (name, 0, 0, right, bottom)  # from 0 shows in one box, and holds for all
    root = sets.make_voc(tmp_path, made, first)
    assert said in detection_layout(str(root)).choices[1]
    assert_same(opened(root).train, made["train"])


def test_difficult_objects_are_crowd(tmp_path):
    made = sets.splits()
    root = sets.make_voc(tmp_path, made)
    file = root / f"Annotations/{made['train'][0].stem}.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1", 1))
    images = opened(root).train
    assert len(images.objects(0).labels) == len(made["train"][0].objects) - 1
    assert sum(entry["iscrowd"] for entry in images.ground_truth()["annotations"]) == 1
    (line,) = [line for line in images.notes if "difficult" in line]
    assert f"1 × object marked difficult (not trained on, not counted in evaluation): Annotations/{file.name}" in line


def test_a_class_list_orders_voc_s_classes(tmp_path):
    root = sets.make_voc(tmp_path, sets.splits())
    assert "alphabetical order" in detection_layout(str(root)).choices[0]
    sets.write(root / "classes.txt", "disc\nbar\nnever\n")
    assert opened(root).train.classes == ("disc", "bar", "never")
    sets.write(root / "classes.txt", "disc\n")
    images = opened(root).train
    assert images.classes == ("disc",) and images.skipped["annotation of a category that is not listed"] > 0


ENTITIES = '<!DOCTYPE a [<!ENTITY b "bomb"><!ENTITY c "&b;&b;">]>\n'


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda text: text[:40], "cannot be read, skipped: {} (broken at line 1)"),
        (lambda text: "", "cannot be read, skipped: {} (broken at line 1)"),
        (lambda text: ENTITIES + text, "cannot be read, skipped: {} (a document type declaration"),
        (lambda text: "<a>" * 60, "cannot be read, skipped: {} (elements nested more than 50 deep)"),
        (lambda text: "<kml/>", "cannot be read, skipped: {} (<kml> where <annotation> is expected)"),
        (lambda text: text.replace("xmin>", "left>"), "without a name or a box, skipped: {}"),
        (lambda text: text.replace("<xmin>", "<xmin>1e400 "), "without a name or a box, skipped: {}"),
        (lambda text: text.replace("<xmin>", "<xmin>9000"), "box of zero or negative size, skipped: {}"),
    ],
)  # fmt: skip
def test_a_faulty_annotation_file_is_named(tmp_path, change, kind):
    made = sets.splits()
    root = sets.make_voc(tmp_path, made)
    file = root / f"Annotations/{made['train'][1].stem}.xml"
    file.write_text(change(file.read_text()))
    images = opened(root).train
    expected = kind.format(f"Annotations/{file.name}")
    (line,) = [line for line in images.notes if expected in line]
    assert line.startswith("ImageSets/Main/train.txt: ") and "\n" not in line
    assert len(images) == (5 if "cannot be read" in kind else 6)
    if "cannot be read" not in kind:
        assert not len(images.objects(1).labels)


def test_missing_files_are_counted(tmp_path):
    made = sets.splits()
    root = sets.make_voc(tmp_path, made)
    first, second, third = (picture.stem for picture in made["train"][:3])
    (root / f"JPEGImages/{first}.png").unlink()
    (root / f"Annotations/{second}.xml").unlink()
    xml = root / f"Annotations/{third}.xml"
    xml.write_text(xml.read_text().replace("<size>", "<size_>").replace("</size>", "</size_>"))
    images = opened(root).train
    assert len(images) == 4 and images.sizes[0].tolist() == [64, 80]  # read from the image
    assert images.skipped == {"image whose file is missing": 1, "listed image without an annotation file": 1}
    for file in (root / "JPEGImages").iterdir():
        file.unlink()
    with pytest.raises(RMTError, match="no image can be used; .*: 5 × image whose file is missing"):
        opened(root)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("0 0.5 0.5 0.1", "line that is neither CLASS CX CY W H nor a polygon"),
        ("disc 0.5 0.5 0.1 0.1", "line that is neither"),
        ("-1 0.5 0.5 0.1 0.1", "line that is neither"),
        ("0 40 30 10 10", "line whose numbers are not shares from 0 to 1"),
        ("0 nan 0.5 0.1 0.1", "line whose numbers are not shares"),
        ("0 0.5 0.5 0 0.1", "box of zero or negative size"),
        ("7 0.5 0.5 0.1 0.1", "not listed, class number 7 of 2 classes"),
    ],
)
def test_a_faulty_label_line_is_named(tmp_path, line, kind):
    made = sets.splits()
    root = sets.make_yolo(tmp_path, made)
    file = root / f"labels/train/{made['train'][0].stem}.txt"
    file.write_text(file.read_text() + line)
    images = opened(root).train
    (note,) = [note for note in images.notes if kind in note]
    assert note.startswith("images/train: 1 ×") and f"{file.name} line {len(made['train'][0].objects) + 1}" in note
    assert len(images.objects(0).labels) == len(made["train"][0].objects)


def test_a_rotated_photo_has_the_size_that_is_seen(tmp_path):
    root = sets.make_yolo(tmp_path, sets.splits())
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (40, 20)).save(root / "images/train/turned.jpg", exif=exif)
    sets.write(root / "labels/train/turned.txt", "0 0.5 0.25 1 0.5")
    images = opened(root).train
    index = next(i for i in range(len(images)) if "turned" in images.name(i))
    assert images.load(index).size == (20, 40)
    assert images.objects(index).boxes.tolist() == [[0, 0, 20, 20]]


def test_a_data_yaml_has_so_many_values(tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.data.detection.yolo_yaml.MAX_VALUES", 100)
    sets.write(tmp_path / "data.yaml", f"names: [{'x,' * 97}x]\n")  # one more is the list, and two the map and its key
    with pytest.raises(RMTError, match="not a YAML file that can be read .it has more than 100 values"):
        detection_layout(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: &x [1]\nnames: [*x, *x]\n", "not a YAML file that can be read .it has an alias"),
        ("names: [a\n", "not a YAML file that can be read at line 2"),
        ("names: 7\ntrain: images\n", "names must be a list of class names"),
        ("train: images\n", "no class names"),
        ("names: [a, b]\nkpt_shape: [x]\n", "kpt_shape must be two numbers"),
    ],
)
def test_a_faulty_data_yaml_is_one_line(tmp_path, text, said):
    sets.write(tmp_path / "data.yaml", text)
    with pytest.raises(RMTError, match=said) as caught:
        detection_layout(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_what_is_no_detection_set(tmp_path):
    sets.write(tmp_path / "notes.txt", "nothing")
    with pytest.raises(RMTError, match="no such folder; expected COCO"):
        detection_layout(str(tmp_path / "nowhere"))
    with pytest.raises(RMTError, match="a file, not a folder"):
        detection_layout(str(tmp_path / "notes.txt"))
    with pytest.raises(RMTError, match="no detection data found; expected COCO"):
        detection_layout(str(tmp_path))
    sets.make_voc(tmp_path / "VOCdevkit", sets.splits())
    with pytest.raises(RMTError, match=r"did you mean .*VOCdevkit\?"):
        detection_layout(str(tmp_path))
