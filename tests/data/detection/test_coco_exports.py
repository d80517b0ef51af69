"""COCO-format files as tools write them: what can be understood is taken, what cannot is asked about or named."""

import json
from typing import get_args

import numpy as np
import pytest
from helpers.coco_sets import annotation, open_coco, rectangle, write_json
from PIL import Image

from rmt.data.detection import conventions
from rmt.data.detection.layouts import coco_files, detection_layout, open_detection
from rmt.errors import RMTError
from rmt.recipes.detect import Boxes

SIZE = (96, 64)  # width, height
CATEGORIES = [{"id": 1, "name": "disc"}, {"id": 2, "name": "bar"}]


def image(number, **changes):
    record = {"id": number, "file_name": f"{number}.png", "height": SIZE[1], "width": SIZE[0]}
    return {key: value for key, value in (record | changes).items() if value is not None}


def save(root, annotations, images=None, categories=CATEGORIES):
    """A file `some.json` and its images, which are plain."""
    images = [image(n) for n in range(1, 9)] if images is None else images
    for number in range(1, 9):
        if not (root / f"photos/{number}.png").exists():
            (root / "photos").mkdir(exist_ok=True)
            Image.new("RGB", SIZE, (number, 0, 0)).save(root / f"photos/{number}.png")
    write_json(root / "some.json", {"images": images, "annotations": annotations, "categories": categories})
    return root


def opened(root, with_masks=False):
    return open_coco(root / "photos", root / "some.json", with_masks=with_masks)


def boxes(root, convert=lambda x, y, w, h: (x, y, w, h), count=40):
    """Random boxes inside the eight images, written as `convert` says."""
    draw = np.random.default_rng(0)
    made = []
    for number in range(count):
        w, h = draw.integers(10, 40, 2).tolist()
        x, y = int(draw.integers(0, SIZE[0] - w)), int(draw.integers(0, SIZE[1] - h))
        made.append(annotation(number + 1, number % 8 + 1, number % 2 + 1, (0, 0, 1, 1), segmentation=[]))
        made[-1]["bbox"] = list(convert(x, y, w, h))
    return save(root, made)


def test_one_file_under_several_ids_is_one_image(tmp_path):
    images = [image(n, file_name=f"{(n - 1) // 2 + 1}.png") for n in range(1, 9)]  # two ids each, a box each
    annotations = [annotation(n, n, 1, (n, n, 20, 20)) for n in range(1, 9)]
    found = opened(save(tmp_path, annotations, images))
    assert len(found) == 4 and [len(found.objects(i).labels) for i in range(4)] == [2, 2, 2, 2]
    assert found.objects(1).boxes.tolist() == [[3, 3, 23, 23], [4, 4, 24, 24]]
    assert any("4 × image that is listed under several ids (merged): 1.png" in line for line in found.notes)
    truth = found.ground_truth()
    assert {a["image_id"] for a in truth["annotations"]} == {i["id"] for i in truth["images"]} == {1, 3, 5, 7}
    rest, held = found.hold_out(0.5, 0)
    assert not set(rest.table.files[rest.indices]) & set(held.table.files[held.indices])


def shares(form):
    return lambda x, y, w, h: tuple(value / side for value, side in zip(form(x, y, w, h), SIZE * 2, strict=True))


def corners(x, y, w, h):
    return x, y, x + w, y + h


def centres(x, y, w, h):
    return x + w / 2, y + h / 2, w, h


FORMS = {
    "xyxy": (corners, "as x1, y1, x2, y2 100 % would lie inside: are these x1, y1, x2"),
    "cxcywh": (centres, "are these centre x, centre y, width, height?"),
    "normalized-xywh": (shares(lambda *box: box), "lie within 0…1: are these shares of the sides"),
    "normalized-xyxy": (shares(corners), "lie within 0…1"),
    "normalized-cxcywh": (shares(centres), "lie within 0…1"),
}


@pytest.mark.parametrize("form", FORMS)
def test_boxes_in_another_form_are_asked_about_and_the_option_answers(tmp_path, form):
    convert, question = FORMS[form]
    files = coco_files((boxes(tmp_path, convert) / "photos", tmp_path / "some.json"))
    with pytest.raises(RMTError, match=question) as error:
        files.read("train")
    assert "some.json: " in str(error.value) and "\n" not in str(error.value)
    assert f"If so: --boxes {form} (or " in str(error.value)
    files.boxes = form.replace("-", "_")
    assert f"(--boxes {form})" in files.choices[0]
    found = files.read("train").table
    right = opened(boxes(tmp_path)).table
    np.testing.assert_allclose(found.boxes, right.boxes, atol=1e-9)
    np.testing.assert_allclose(found.areas, right.boxes[:, 2] * right.boxes[:, 3])


def test_the_forms_are_those_of_the_recipe():
    forms = [prefix + form for prefix in ("", conventions.NORMALIZED) for form in conventions.FORMS]
    assert get_args(Boxes) == ("auto", *forms)


def test_a_form_that_most_boxes_do_not_have_is_refused_and_xywh_is_taken_at_its_word(tmp_path):
    files = coco_files((boxes(tmp_path) / "photos", tmp_path / "some.json"), boxes="normalized_xywh")
    with pytest.raises(RMTError, match=r"some.json: read with --boxes normalized-xywh, 100 % of the boxes would"):
        files.read("train")
    save(tmp_path, [annotation(n, n, 1, (90, 50, 60, 60), segmentation=[]) for n in range(1, 9)])  # drawn at the corner
    files.boxes = "xywh"
    assert files.read("train").table.boxes.tolist() == [[90, 50, 60, 60]] * 8
    with pytest.raises(RMTError, match="--boxes xyxy is for COCO-format files, and .* is YOLO: leave it out"):
        detection_layout(str(yolo(tmp_path)), "xyxy")


def yolo(root):
    for folder in ("images", "labels"):
        (root / "set" / folder).mkdir(parents=True)
    Image.new("RGB", SIZE).save(root / "set/images/a.png")
    (root / "set/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    return root / "set"


def test_boxes_that_are_right_are_not_asked_about(tmp_path):
    assert len(opened(boxes(tmp_path))) == 8
    slack = np.random.default_rng(1)
    loose = boxes(tmp_path, lambda x, y, w, h: (x - 6, y - 6, w + 12, h + 12))  # drawn beyond the edges
    assert opened(loose).skipped["box that reaches over the edge (clipped)"] > 0
    one = boxes(tmp_path, lambda x, y, w, h: (x, y, w + 90 * (slack.random() < 0.05), h))  # single faults
    assert len(opened(one)) == 8


@pytest.mark.parametrize(("key", "listed"), [("category_id", "categories"), ("image_id", "images")])
@pytest.mark.parametrize("shift", [-1, 1])
def test_ids_that_are_off_by_one_are_asked_about(tmp_path, key, listed, shift):
    root = boxes(tmp_path)
    content = json.loads((root / "some.json").read_text())
    for record in content["annotations"]:
        record[key] += shift
    write_json(root / "some.json", content)
    with pytest.raises(RMTError, match=f"annotations have a {key} that is not listed.*: are these ids off by one?"):
        opened(root)


def test_ids_that_cannot_be_read_are_not_taken_for_shifted_ones(tmp_path):
    root = boxes(tmp_path)
    content = json.loads((root / "some.json").read_text())
    for record in content["annotations"][::4]:
        record["category_id"] = None
    content["categories"] = [{"id": 1, "name": None}, {"id": 2, "name": " "}, {"id": 3, "name": "bar"}]
    write_json(root / "some.json", content)
    assert opened(root).skipped["annotation of a category that is not listed"] == 10
    assert opened(root).classes == ("1", "2", "bar")  # a category without a name is called by its id


def test_crowd_flags_on_most_objects_are_warned_about_and_can_be_objects(tmp_path):
    flagged = [annotation(n, n, 1, (5, 5, 20, 20), iscrowd=1) for n in range(1, 9)]
    save(tmp_path, flagged)
    files = coco_files((tmp_path / "photos", tmp_path / "some.json"))
    options = dict(with_masks=True, empty_images=False, holdout=0.25)
    with pytest.raises(RMTError, match=r"no image shows an object \(.*most objects are crowd.*: --crowd-as-objects"):
        open_detection(files, **options)
    train, val, _ = open_detection(files, crowd_as_objects=True, **options)
    assert len(train) + len(val) == 8 and train.objects(0).masks.sum() == 400
    assert all(not entry["iscrowd"] for entry in val.ground_truth()["annotations"])
    save(tmp_path, [record | {"iscrowd": "0"} for record in flagged])
    train = open_detection(files, **options).train
    assert len(train.objects(0).labels) == 1
    assert any('8 × crowd flag that is text, such as "0" (read as a number)' in line for line in train.notes)


def test_a_bad_piece_costs_the_piece(tmp_path):
    good = rectangle(10, 10, 20, 20)
    for bad in (
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5, float("nan")]],
        [[1, 2, 3, 4, 5]],
        ["polygon"],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
    ):
        found = opened(save(tmp_path, [annotation(1, 1, 1, (10, 10, 20, 20), segmentation=good + bad)]), True)
        assert found.objects(0).masks.sum() == 400, bad
        assert any("1 × piece of a mask that cannot be read (left out): annotation 1" in n for n in found.notes)
    flat = opened(save(tmp_path, [annotation(1, 1, 1, (10, 10, 20, 20), segmentation=good[0])]), True)
    assert flat.objects(0).masks.sum() == 400  # one polygon without a list around it


def test_masks_are_not_read_without_them(tmp_path, monkeypatch):
    spoilt = [annotation(1, 1, 1, (10, 10, 20, 20), segmentation=[[1, 2, 3]])]
    assert len(opened(save(tmp_path, spoilt)).objects(0).labels) == 1
    monkeypatch.setattr("rmt.data.detection.table.mask_box", lambda *args: pytest.fail("a mask was read"))
    assert opened(tmp_path).table.segmentations == b"null"


@pytest.mark.parametrize(("good", "masks"), [(0, False), (3, False), (4, True)])
def test_objects_with_damaged_masks_are_kept_where_masks_are_not_used(tmp_path, good, masks):
    """With `masks=auto` masks are read, to count them, and not used where fewer than half of the objects have one."""
    spoilt = [[]], [[50, 40, 60, 40, 60, 50]]  # the second one misses its box
    bad = [annotation(n, n, 1, (10, 10, 20, 20), segmentation=spoilt[n % 2]) for n in range(good + 1, 9)]
    save(tmp_path, [annotation(n, n, 1, (10, 10, 20, 20)) for n in range(1, good + 1)] + bad)
    files = coco_files((tmp_path / "photos", tmp_path / "some.json"))
    train, val, _ = open_detection(files, with_masks=None, empty_images=True, holdout=0.25)
    assert (len(train), len(val)) == (6, 2) and train.with_masks is masks is (train.objects(0).masks is not None)
    assert sum((*train.class_counts().values(), *val.class_counts().values())) == (good if masks else 8)
    kinds = ("mask that cannot be read", "mask that misses its box", "object without a mask")
    assert sum(train.skipped.get(kind, 0) for kind in kinds) == len(bad)  # each once


@pytest.mark.parametrize("given", [None, [], [0, 0, 0, 0], "none", [1, 2, 3]])
@pytest.mark.parametrize("with_masks", [True, False])
def test_boxes_are_computed_from_polygons_where_missing(tmp_path, given, with_masks):
    record = annotation(1, 1, 1, (10, 12, 20, 30), bbox=given)
    found = opened(save(tmp_path, [record]), with_masks)
    assert found.objects(0).boxes.tolist() == [[10, 12, 30, 42]]
    assert any("1 × object whose box is computed from its mask: annotation 1" in line for line in found.notes)


def test_a_refusal_shows_the_reasons(tmp_path):
    bad = [annotation(n, 1, 1, (1, 1, 9, 9), bbox="1 1 9 9", segmentation=[]) for n in range(1, 17)]
    save(tmp_path, bad)
    with pytest.raises(
        RMTError, match=r"no image shows an object \(16 × box that is not four numbers below a billion\)"
    ):
        opened(tmp_path).without_empty()


@pytest.mark.parametrize(
    "root_category",
    [
        {"id": 0, "name": "cells", "supercategory": "none"},
        {"id": 0, "name": "_background_", "supercategory": None},
        {"id": 9, "name": "background"},
    ],
)
def test_roots_and_backgrounds_are_left_out(tmp_path, root_category):
    categories = [root_category, *({**record, "supercategory": "cells"} for record in CATEGORIES)]
    annotations = [annotation(n, n, n % 2 + 1, (5, 5, 20, 20)) for n in range(1, 9)]
    found = opened(save(tmp_path, annotations, categories=categories))
    assert found.classes == ("disc", "bar") and found.category_ids == [1, 2]
    line = f"1 × category without an object that heads others or is the background (left out): {root_category['name']}"
    assert any(line in note for note in found.notes)
    annotations[0]["category_id"] = root_category["id"]  # with an object it is a class
    assert len(opened(save(tmp_path, annotations, categories=categories)).classes) == 3


@pytest.mark.parametrize(
    "name",
    [
        *(
            "sub\\3.png",
            "sub/../3.png",
            "../photos/3.png",
            "/data/me/photos/3.png",
            "C:\\data\\photos\\3.png",
            "./3.png",
        ),
        *("%33.png", "/data/local-files/?d=upload%2F3.png", "images/3.png", "file:///home/me/3.png"),
    ],
)
def test_names_of_files_that_are_inside_the_folder(tmp_path, name):
    found = opened(save(tmp_path, [annotation(1, 3, 1, (5, 5, 20, 20))], [image(3, file_name=name)]))
    assert found.table.files.tolist() == ["3.png"] and found.load(0).getpixel((0, 0)) == (3, 0, 0)


def test_names_of_files_that_are_not(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"")
    with pytest.raises(RMTError, match=r"image 3 lies outside the image folder .*photos \(\.\./secret\.png\)"):
        opened(save(tmp_path, [], [image(3, file_name="../secret.png")]))
    literal = tmp_path / "photos/100%25 sure.png"
    Image.new("RGB", SIZE).save(literal)
    found = opened(save(tmp_path, [annotation(1, 3, 1, (5, 5, 9, 9))], [image(3, file_name="100%25 sure.png")]))
    assert len(found) == 1  # a name is taken as it is first


def test_ids_and_sizes_in_other_forms(tmp_path):
    images = [image(1.0, width="96", height="64.0"), image("2", width=None, height=None), image(3, height=0)]
    annotations = [annotation(float(n), f"{n}.0", str(1), (5, 5, 20, 20)) for n in (1, 2, 3)]
    categories = [{"id": "1", "name": "disc"}]
    for record, name in zip(images, "123", strict=True):
        record["file_name"] = f"{name}.png"
    found = opened(save(tmp_path, annotations, images, categories))
    assert len(found) == 3 and found.sizes.tolist() == [[64, 96]] * 3
    assert [len(found.objects(i).labels) for i in range(3)] == [1, 1, 1]
    with pytest.raises(RMTError, match="image 7 has no positive whole height and width, and its file cannot be read"):
        opened(save(tmp_path, [], [image(7, file_name="none.png", width=None)]))
    for number in (True, 1.5, "x", 2**64, None, [1]):
        with pytest.raises(RMTError, match=r"images\[0\] must be an object whose id is a whole number"):
            opened(save(tmp_path, [], [image(1) | {"id": number}]))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("upright", [True, False])
def test_rotated_photos_are_taken_as_they_are_listed(tmp_path, orientation, upright):
    save(tmp_path, [])
    stored = Image.new("RGB", SIZE)
    stored.paste((255, 0, 0), (0, 0, 20, 10))  # the corner of the file, wherever it is on the upright photo
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "photos/1.png", exif=exif)
    width, height = SIZE[::-1] if upright else SIZE
    found = opened(save(tmp_path, [annotation(1, 1, 1, (5, 5, 20, 20))], [image(1, width=width, height=height)]))
    loaded = found.load(0)
    assert loaded.size == (width, height)
    if not upright:
        np.testing.assert_array_equal(np.asarray(loaded), np.asarray(stored))
