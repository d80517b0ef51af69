"""Split folders in every usual form, for all tasks: found, named and used, or refused in one line."""

import json

import numpy as np
import pytest
from helpers import detection_sets
from helpers.image_sets import picture
from helpers.segment_data import make_segments

from rmt.data.detection.layouts import detection_layout, open_detection
from rmt.data.segmentation.dataset import open_segmentation, open_segmentation_evaluation
from rmt.data.segmentation.layouts import segmentation_layout
from rmt.data.split_names import resembles_splits, split_of
from rmt.data.splits import folders_in_every_class, open_splits, open_test, present_splits, unused_beside
from rmt.errors import RMTError
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.detect.data import DetectData


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("train", "train Train TRAINING training seg_train train_set Train-Set trainset train_images training_data"),
        ("val", "val Val VALID valid validation Validation dev seg_val val_set valset"),
        ("test", "test Test testing TESTING seg_test test_set Test.Set testset"),
        (None, "trains validated testes ant_train trainannot train_labels train_test set trainer images data pretrain"),
    ],
)
def test_usual_names(split, names):
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), split)


@pytest.mark.parametrize(
    ("names", "resemble"),
    [
        ("trainA testB", True), ("trainA trainB testA testB", True), ("train2017 val2017", True),
        ("cat_train cat_val", True),
        ("train_station car_train", False), ("test_positive test_negative", False), ("trainA testB car", False),
        ("trains tests", False), ("contestant restrain", False),
    ],
)  # fmt: skip
def test_names_that_resemble_splits(tmp_path, names, resemble):
    """They are refused rather than taken as classes."""
    names = names.split()
    assert resembles_splits(names) == resemble
    data = folders(tmp_path, *names, count=1)
    if resemble:
        with pytest.raises(RMTError, match="look like splits, and would be taken as classes"):
            present_splits(data)
    else:
        assert present_splits(data) == ("train",)


def test_classes_a_folder_deeper_are_said(tmp_path):
    """The same folders in every class folder may be the classes."""
    data = folders(tmp_path, "fold1", "fold2")
    recipe = ClassifyRecipe(name="folds", data=data, holdout=0.5)
    (line,) = [line for line in ClassifyData.open(recipe).describe(recipe) if line.startswith("warning")]
    assert "fold1, fold2 are taken as the classes, and each has the folders ant, bee" in line
    (tmp_path / "fold1/ant").rename(tmp_path / "fold1/session 1")
    assert folders_in_every_class(data) == []
    assert folders_in_every_class("sample") == []


def folders(root, *names, count=4):
    for name in names:
        for label in ("ant", "bee"):
            (root / name / label).mkdir(parents=True)
            for number in range(count):
                picture(number).save(root / name / label / f"{number}.png")
    return str(root)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("Train", "Test"), ("train", "test")),
        (("Training", "Testing"), ("train", "test")),
        (("train", "Val"), ("train", "val")),
        (("train", "val", "test"), ("train", "val", "test")),
        (("seg_train/seg_train", "seg_test/seg_test"), ("train", "test")),
        (("train_set", "test_set"), ("train", "test")),
    ],
)
def test_folders_of_classes(tmp_path, names, found):
    data = folders(tmp_path, *names)
    assert present_splits(data) == found
    train, val, _ = open_splits(data, holdout=0.25)
    assert train.classes == ("ant", "bee")
    assert (len(train), len(val)) == ((8, 8) if "val" in found else (6, 2))
    if "test" in found:
        assert len(open_test(data, train)[0]) == 8


def test_folders_that_are_no_splits(tmp_path):
    for label in ("bus", "train", "car"):  # vehicles
        (tmp_path / label).mkdir()
        picture(1).save(tmp_path / label / "1.png")
    assert present_splits(str(tmp_path)) == ("train",)
    data = folders(tmp_path / "other", "train", "val", "predictions")
    assert unused_beside(data) == ["predictions"]
    (tmp_path / "other/test").mkdir()
    picture(1).save(tmp_path / "other/test/1.png")  # test images without labels
    assert present_splits(data) == ("train", "val") and unused_beside(data) == ["predictions", "test"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train", "val", "valid"), "both val and valid are named like the val split; rename one"),
        (("Train", "train"), "both Train and train are named like the train split"),
        (("Test", "test_set"), "both Test and test_set are named like the test split"),
    ],
)
def test_two_folders_of_one_split(tmp_path, names, message):
    with pytest.raises(RMTError, match=message):
        open_splits(folders(tmp_path, *names))


def test_a_folder_around_the_splits_is_pointed_into(tmp_path):
    folders(tmp_path, "data/Train", "data/Test")
    with pytest.raises(RMTError, match=r"only one class folder \(data\).*; did you mean .*/data\?"):
        open_splits(str(tmp_path))


def test_only_a_test_split(tmp_path):
    with pytest.raises(RMTError, match="a test split but no training split"):
        open_splits(folders(tmp_path, "Testing"))


def test_splits_inside_the_classes_are_refused(tmp_path):
    for label in ("ant", "bee"):
        for split in ("Train", "Test"):
            (tmp_path / label / split).mkdir(parents=True)
            picture(1).save(tmp_path / label / split / "1.png")
    with pytest.raises(RMTError, match=r"inside the class folders \(ant/Test\); expected train/ant"):
        open_splits(str(tmp_path))


@pytest.mark.parametrize("split", ["", "train", "test"])
def test_images_beside_masks_are_no_classes(tmp_path, split):
    for folder in ("images", "Masks"):
        (tmp_path / folder / split).mkdir(parents=True)
        picture(1).save(tmp_path / folder / split / "1.png")
    with pytest.raises(RMTError, match=r"images/, Masks/|Masks/, images/") as error:
        open_splits(str(tmp_path))
    assert f"`rmt check {tmp_path}` says which recipe takes these data" in str(error.value)


def test_a_run_says_what_it_learns_from(tmp_path):
    data = folders(tmp_path, "Training", "Testing", "extra", count=10)
    recipe = ClassifyRecipe(name="lines", data=data, image_size=32, holdout=0.2)
    assert ClassifyData.open(recipe).describe(recipe) == [
        "train: 16 images; images per class: ant 8, bee 8",
        "val (held out of train): 4 images; images per class: ant 2, bee 2",
        "test: 20 images; images per class: ant 10, bee 10",
        "not used, since beside the splits and in none: extra",
    ]


def test_many_classes_are_abbreviated(tmp_path):
    for label in "abcdefghijkl":
        (tmp_path / label).mkdir()
        for number in range(2):
            picture(number).save(tmp_path / label / f"{number}.png")
    recipe = ClassifyRecipe(name="lines", data=str(tmp_path), image_size=32, holdout=0.5)
    line = ClassifyData.open(recipe).describe(recipe)[0]
    assert line == "train: 12 images; images per class: a 1, b 1, c 1, d 1, e 1, f 1, …, k 1, l 1 (12 in all)"


def test_masks(tmp_path):
    root = make_segments(tmp_path / "both", train=4, val=2)
    for kind, train, val in (("images", "Train", "Val"), ("masks", "training", "VALID")):
        (root / kind / "train").rename(root / kind / train)
        (root / kind / "val").rename(root / kind / val)
    (root / "images").rename(root / "Images")
    found = open_segmentation(str(root))
    assert (len(found.train), len(found.val)) == (4, 2)
    for kind in ("Images", "masks"):
        (root / kind / {"Images": "Val", "masks": "VALID"}[kind]).rename(root / kind / "Test")
    train, val, skipped = open_segmentation(str(root), holdout=0.25)  # without val: a part of train
    assert (len(train), len(val), list(skipped)) == (3, 1, ["train and val"])
    assert len(open_segmentation_evaluation(str(root), split="test").images) == 2
    (root / "masks/Test").rename(root / "masks/valid")
    with pytest.raises(RMTError, match="no folder for val, whose masks are in .*masks/valid"):
        open_segmentation(str(root))


@pytest.mark.parametrize(("images", "masks"), [("Train", "TrainAnnot"), ("train_images", "train_masks")])
def test_masks_in_folders_beside_the_images(tmp_path, images, masks):
    root = make_segments(tmp_path, train=4, val=2)
    (root / "images/train").rename(root / images)
    (root / "masks/train").rename(root / masks)
    assert set(segmentation_layout(str(root)).splits) == {"train"}
    (root / "images/val").rename(root / "val")
    with pytest.raises(RMTError, match="val: no folder with its masks beside it, such as valannot"):
        open_segmentation(str(root), holdout=0.5)


def coco(root, train, val, made):
    for name, found in ((train, made["train"]), (val, made["val"])):
        for each in found:
            detection_sets.write(root / name / f"{each.stem}.png", each.image)
        (root / name / "_annotations.coco.json").write_text(detection_sets.coco_of(found))
    return str(root)


def test_coco_as_exported_with_folders_in_any_case(tmp_path):
    made = detection_sets.splits()
    layout = detection_layout(coco(tmp_path, "Train", "Valid", made))
    found = open_detection(layout, with_masks=False, empty_images=True)
    assert (len(found.train), len(found.val)) == (6, 4)
    data = DetectData(*found, layout)
    objects = found.train.class_counts()
    shown = {name: sum(any(o[0] == name for o in p.objects) for p in made["train"]) for name in objects}
    assert data.describe()[1:3] == [
        f"train: 6 images; objects per class: bar {objects['bar']}, disc {objects['disc']}",
        f"  images that show the class: bar {shown['bar']}, disc {shown['disc']}",
    ]
    assert data.describe()[3].startswith("val: 4 images; objects per class:")


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        (("instances_Train", "instances_Validation"), ("images/Train", "images/Validation")),  # CVAT
        (("instances_train2017", "instances_val2017"), ("train2017", "val2017")),
        (("instances_train", "instances_val"), ("Train", "Val")),
        (("instances_train2017", "instances_val2017"), ("images/train2017", "images/val2017")),
    ],
)
def test_coco_annotations_by_split(tmp_path, annotations, images):
    made = detection_sets.splits()
    for split, name, folder in zip(("train", "val"), annotations, images, strict=True):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / f"annotations/{name}.json").write_text(detection_sets.coco_of(made[split]))
        for each in made[split]:
            detection_sets.write(tmp_path / folder / f"{each.stem}.png", each.image)
    found = open_detection(detection_layout(str(tmp_path)), with_masks=False, empty_images=True)
    assert (len(found.train), len(found.val)) == (6, 4)


def test_lists_and_yaml_in_any_case(tmp_path):
    made = detection_sets.splits()
    voc = detection_sets.make_voc(tmp_path / "voc", made)
    for name in ("train", "val", "test"):
        (voc / f"ImageSets/Main/{name}.txt").rename(voc / f"ImageSets/Main/{name.capitalize()}.txt")
    assert list(detection_layout(str(voc)).splits) == ["train", "val", "test"]
    yolo = detection_sets.make_yolo(tmp_path / "yolo", made)
    for kind in ("images", "labels"):
        for name in ("train", "val"):
            (yolo / kind / name).rename(yolo / kind / name.upper())
    found = open_detection(detection_layout(str(yolo)), with_masks=False, empty_images=True)
    assert np.all([len(found.train) == 6, len(found.val) == 4])


def test_annotations_without_a_usable_name(tmp_path):
    made = detection_sets.splits()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/labels.json").write_text(json.dumps({}))
    detection_sets.write(tmp_path / "images/a.png", made["train"][0].image)
    with pytest.raises(RMTError, match="name one: --annotations FILE --images FOLDER"):
        detection_layout(str(tmp_path)).read("train")
