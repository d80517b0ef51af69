"""COCO folders and files: what is read, what is refused, what is skipped and named."""

import json

import numpy as np
import pytest
from helpers.coco_sets import CATEGORIES, annotation, make_coco, make_split, open_coco, run_lengths, write_json
from PIL import Image

from rmt.data.detection.coco import find_split
from rmt.data.detection.layouts import coco_files, open_detection
from rmt.data.images import BadImage
from rmt.errors import RMTError
from rmt.recipes import DetectRecipe


@pytest.fixture
def folder(tmp_path):
    return make_coco(tmp_path)


def opened(folder, split="train", *, with_masks=True):
    return open_coco(*find_split(folder, split), with_masks=with_masks)


def with_annotations(tmp_path, annotations, *, images=None, categories=CATEGORIES):
    """A set of one 96×64 image (number 5) and these annotations."""
    images = [{"id": 5, "file_name": "a.png", "height": 64, "width": 96}] if images is None else images
    Image.new("RGB", (96, 64)).save(tmp_path / "a.png")
    content = {"images": images, "annotations": annotations, "categories": categories}
    return open_coco(tmp_path, write_json(tmp_path / "some.json", content), with_masks=True)


def test_a_downloaded_folder_is_read_whole(folder):
    images = opened(folder)
    content = json.loads((folder / "annotations/instances_train2017.json").read_text())
    assert images.classes == ("disc", "bar", "never") and images.category_ids == [0, 7, 90]
    assert images.image_ids.tolist() == [record["id"] for record in content["images"]]
    for index, record in enumerate(content["images"]):
        mine = [a for a in content["annotations"] if a["image_id"] == record["id"] and not a["iscrowd"]]
        objects = images.objects(index)
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in mine)]
        assert objects.boxes.tolist() == corners
        assert objects.labels.tolist() == [{0: 0, 7: 1}[a["category_id"]] for a in mine]
        pixels = np.asarray(images.load(index))
        for (left, top, right, bottom), mask in zip(corners, objects.masks, strict=True):
            expected = np.zeros(pixels.shape[:2], dtype=np.uint8)
            expected[top:bottom, left:right] = 1
            assert np.array_equal(mask, expected)


def test_the_ground_truth_keeps_crowd_and_the_file_s_numbers(folder):
    images = opened(folder)
    content = json.loads((folder / "annotations/instances_train2017.json").read_text())
    truth = images.ground_truth()
    drop = ("id",)
    plain = [{k: v for k, v in a.items() if k not in drop} for a in truth["annotations"]]
    expected = [{k: v for k, v in a.items() if k not in drop} for a in content["annotations"]]
    assert plain == expected and sum(a["iscrowd"] for a in plain) == 2
    assert truth["categories"] == CATEGORIES
    assert [i["id"] for i in images.ground_truth([1])["images"]] == [103]


def test_polygons_and_both_kinds_of_run_lengths_are_the_same_mask(tmp_path):
    from faster_coco_eval.core import mask as api

    mask = np.zeros((64, 96), dtype=bool)
    mask[10:20, 30:50] = True
    rle = run_lengths(mask)
    packed = api.frPyObjects([rle], 64, 96)[0]
    packed["counts"] = packed["counts"] if isinstance(packed["counts"], str) else packed["counts"].decode()
    shapes = [[[30, 10, 50, 10, 50, 20, 30, 20]], rle, packed]
    box = (30, 10, 20, 10)
    images = with_annotations(tmp_path, [annotation(i, 5, 0, box, segmentation=s) for i, s in enumerate(shapes)])
    for decoded in images.objects(0).masks:
        assert np.array_equal(decoded, mask)


def test_classes_are_matched_by_name(folder):
    images = opened(folder)
    other = images.with_classes(("bar", "never", "disc", "more"))
    assert other.category_ids == [7, 90, 0, None]
    renamed = [("bar", "never", "disc", "more")[label] for label in other.objects(0).labels]
    assert renamed == [images.classes[label] for label in images.objects(0).labels]
    with pytest.raises(RMTError, match="does not know: never"):
        images.with_classes(("bar", "disc"))


def test_images_without_objects_are_dropped_on_request_only(tmp_path):
    make_split(tmp_path, "train", 5, seed=1)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 103]
    for a in content["annotations"]:
        if a["image_id"] == 109:  # nothing but a crowd region: nothing to learn from either
            a["iscrowd"] = 1
    write_json(path, content)
    images = opened(tmp_path)
    assert len(images) == 5 and images.objects(1).boxes.shape == (0, 4) and images.objects(1).masks.shape == (0, 96, 64)
    full = images.without_empty()
    assert full.image_ids.tolist() == [100, 106, 112]
    assert full.skipped["image without an object"] == 2


def test_one_file_that_is_divided_reports_its_troubles_once(folder):
    path = folder / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    write_json(path, content)
    files = find_split(folder, "train")
    options = dict(with_masks=True, empty_images=True)
    (report,) = open_detection(coco_files(files), holdout=0.4, **options).skipped.items()
    assert report[0] == "train and val" and report[1]["box of zero or negative size"] == 1
    apart = open_detection(coco_files(files, find_split(folder, "val")), **options).skipped
    assert apart["train"] == report[1] and "box of zero or negative size" not in apart["val"]


def test_a_hold_out_splits_the_images(folder):
    rest, held = opened(folder).hold_out(0.34, seed=0)
    assert len(held) == 2 and sorted([*rest.image_ids, *held.image_ids]) == sorted(opened(folder).image_ids)
    assert held.image_ids.tolist() == opened(folder).hold_out(0.34, seed=0)[1].image_ids.tolist()
    with pytest.raises(RMTError, match="--val-annotations"):
        opened(folder).hold_out(0.01, seed=0)


GOOD = annotation(1, 5, 0, (10, 10, 20, 20))


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        (annotation(2, 5, 0, (10, 10, 0, 20)), "box of zero or negative size"),
        (annotation(2, 5, 0, (30, 10, -5, 20)), "box of zero or negative size"),
        (annotation(2, 5, 0, (10, 10, float("nan"), 20)), "box that is not four numbers below a billion"),
        ({**GOOD, "id": 2, "bbox": [1, 2, 3], "segmentation": []}, "box that is not four numbers below a billion"),
        ({**GOOD, "id": 2, "bbox": None, "segmentation": []}, "box that is not four numbers below a billion"),
        (annotation(2, 5, 0, (96, 10, 20, 20)), "box outside its image"),
        (annotation(2, 5, 0, (-30, 10, 20, 20)), "box outside its image"),
        ({**GOOD, "id": 2, "segmentation": [[50, 40, 60, 40, 60, 50]]}, "mask that misses its box"),
        ({**GOOD, "id": 2, "segmentation": {"size": [64, 96], "counts": [64 * 96]}}, "mask that misses its box"),
        ({**GOOD, "id": 2, "segmentation": {"size": [60, 96], "counts": [60 * 96]}}, "mask that cannot be read"),
        ({**GOOD, "id": 2, "segmentation": {"size": [64, 96], "counts": "zzz"}}, "mask that cannot be read"),
        ({**GOOD, "id": 2, "segmentation": {"size": [64, 96], "counts": [5, 7]}}, "mask that cannot be read"),
        ({**GOOD, "id": 2, "segmentation": [[1, 2, 3]]}, "mask that cannot be read"),
        ({**GOOD, "id": 2, "segmentation": "polygon"}, "mask that cannot be read"),
        (annotation(2, 77, 0, (10, 10, 20, 20)), "annotation whose image is not listed"),
        (annotation(2, 5, 3, (10, 10, 20, 20)), "annotation of a category that is not listed"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_counted_and_named(tmp_path, bad, kind):
    images = with_annotations(tmp_path, [GOOD, bad])
    assert images.skipped[kind] == 1
    (line,) = [line for line in images.notes if kind in line]
    assert line.startswith("some.json: 1 ×") and "annotation 2" in line and "skipped" in line
    assert images.objects(0).boxes.tolist() == [[10, 10, 30, 30]]
    assert len(images.ground_truth()["annotations"]) == 1


def test_a_box_over_the_edge_is_clipped_for_training_alone(tmp_path):
    images = with_annotations(tmp_path, [annotation(1, 5, 0, (80, 50, 30, 20))])
    assert images.skipped["box that reaches over the edge (clipped)"] == 1
    assert images.objects(0).boxes.tolist() == [[80, 50, 96, 64]]
    assert images.ground_truth()["annotations"][0]["bbox"] == [80, 50, 30, 20]


def test_a_category_that_no_image_has_is_named_and_kept(folder):
    images = opened(folder)
    assert "never" in images.classes
    assert any("category that no image has: never" in line for line in images.notes)


@pytest.mark.parametrize(
    ("part", "records"),
    [
        ("annotations", dict(annotations=[GOOD, GOOD])),
        ("images", dict(annotations=[], images=[{"id": 5, "file_name": "a.png", "height": 64, "width": 96}] * 2)),
        ("categories", dict(annotations=[], categories=[CATEGORIES[0], {"id": 0, "name": "other"}])),
    ],
)
def test_duplicate_ids_are_refused(tmp_path, part, records):
    with pytest.raises(RMTError, match=f"some.json: ids that occur more than once in {part}: [05|1]"):
        with_annotations(tmp_path, **records)


def test_categories_of_one_name_are_refused(tmp_path):
    with pytest.raises(RMTError, match="same name: disc"):
        with_annotations(tmp_path, [], categories=[{"id": 1, "name": "disc"}, {"id": 2, "name": "disc"}])


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"images": [{"id": 1, "file_na', "not a complete JSON file .broken at line 1.; download"),
        (b"\xff\xfe\x00", "not a complete JSON file"),
        (b"[1, 2]", "not in COCO format"),
        (b'{"images": []}', "it has no list 'annotations'"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "lists no images"),
        (b'{"images": [{"id": "x"}], "annotations": [], "categories": []}', "images.0. must be an object whose id"),
        (b'{"images": [{"id": 1, "file_name": "a", "height": 0, "width": 3}], "annotations": [], "categories": '
         b'[{"id": 1}]}', "image 1 has no positive whole height"),
        (b'{"images": [{"id": 1, "file_name": "../a", "height": 1, "width": 3}], "annotations": [], "categories": '
         b'[{"id": 1}]}', "lies outside the image folder"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_whole_is_refused_in_one_line(tmp_path, content, complaint):
    (tmp_path / "some.json").write_bytes(content)
    with pytest.raises(RMTError, match=complaint) as caught:
        open_coco(tmp_path, tmp_path / "some.json", with_masks=False)
    assert "\n" not in str(caught.value) and "some.json" in str(caught.value)


def test_missing_image_files_are_left_out_and_named(folder):
    (folder / "train2017/000103.png").unlink()
    images = opened(folder)
    assert 103 not in images.image_ids and len(images) == 5
    assert any("image whose file is missing, skipped: 000103.png" in line for line in images.notes)
    for file in (folder / "train2017").iterdir():
        file.unlink()
    with pytest.raises(RMTError, match="no image of 6"):
        opened(folder)


def test_an_image_of_another_size_is_bad(folder):
    Image.new("RGB", (50, 50)).save(folder / "train2017/000103.png")
    with pytest.raises(BadImage, match="000103.png: 50×50 pixels, the annotations say 64×96"):
        opened(folder).load(1)


def test_a_file_without_masks_serves_detectors_without_them(tmp_path):
    with pytest.raises(RMTError, match="no masks: train a detector without them .--no-masks."):
        with_annotations(tmp_path, [annotation(1, 5, 0, (1, 1, 5, 5), segmentation=[])])
    with pytest.raises(RMTError, match="no usable masks: train a detector without them .--no-masks."):
        with_annotations(tmp_path, [annotation(1, 5, 0, (1, 1, 5, 5), segmentation="polygon")])
    assert not DetectRecipe(name="boxes", data="coco", masks=False).problems()  # what the message advises
    images = open_coco(tmp_path, tmp_path / "some.json", with_masks=False)
    assert images.objects(0).masks is None and len(images.objects(0).boxes) == 1
    mixed = with_annotations(tmp_path, [GOOD, annotation(2, 5, 0, (1, 1, 5, 5), segmentation=[])])
    assert len(mixed.objects(0).boxes) == 1 and mixed.skipped["object without a mask"] == 1


def test_another_layout_is_named_with_its_options(tmp_path):
    with pytest.raises(RMTError, match="annotations/ is missing; other layouts: --images FOLDER --annotations FILE"):
        find_split(tmp_path, "train")
    (tmp_path / "annotations").mkdir()
    with pytest.raises(RMTError, match="no file called instances_val"):
        find_split(tmp_path, "val")
    for year in (2014, 2017):
        (tmp_path / f"annotations/instances_val{year}.json").write_text("{}")
    with pytest.raises(RMTError, match="several files .instances_val2014.json, instances_val2017.json"):
        find_split(tmp_path, "val")
