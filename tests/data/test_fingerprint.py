"""The record of the data of a run: equal for equal data wherever they lie, every difference named."""

import gzip
import shutil
import tracemalloc

import numpy as np
import pytest
from helpers import detection_sets
from helpers.image_sets import picture
from helpers.segment_data import make_segments

from rmt.data.detection.layouts import detection_layout, open_detection, open_detection_split
from rmt.data.fingerprint import differences, digest, recognised, require_same_number, write_record
from rmt.data.segmentation.dataset import open_segmentation, open_segmentation_evaluation
from rmt.data.sets import HoldOut, Subset
from rmt.data.splits import open_splits
from rmt.errors import RMTError


def folder(root, labels=("ant", "bee", "cat"), count=4):
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(count):
            picture(number).save(root / label / f"{number}.png")
    return root


def splits_of(root):
    train, val, _ = open_splits(str(root), holdout=0.25)
    return train.classes, {"train": train, "val": val}


def found(record, root):
    return differences(record, *splits_of(root))


@pytest.fixture
def recorded(tmp_path):
    root = folder(tmp_path / "photos")
    write_record(tmp_path / "record", *splits_of(root))
    return root, tmp_path / "record"


def test_the_place_does_not_matter(recorded, tmp_path):
    root, record = recorded
    copy = shutil.copytree(root, tmp_path / "elsewhere")
    assert found(record, root) == found(record, copy) == []
    one, other = (open_splits(str(place), holdout=0.25).val for place in (root, copy))
    assert digest(one) == digest(other) != digest(open_splits(str(root), holdout=0.25).train)


def test_the_digests_are_those_of_the_sets(tmp_path):
    classes, splits = splits_of(folder(tmp_path / "photos"))
    assert write_record(tmp_path / "record", classes, splits) == {name: digest(s) for name, s in splits.items()}


def test_each_difference_is_named(tmp_path):
    root = folder(tmp_path / "train")
    record, sets = tmp_path / "record", lambda: {"train": open_splits(str(root), holdout=1).train.parent}
    write_record(record, ("ant", "bee", "cat"), sets())
    (root / "bee/2.png").unlink()
    assert differences(record, ("ant", "bee", "cat"), sets()) == ["1 image gone: bee/2.png"]
    for number in range(10, 15):
        picture(number).save(root / f"cat/{number}.png")
    assert differences(record, ("ant", "bee", "cat"), sets())[1] == (
        "5 images new: cat/10.png, cat/11.png, cat/12.png and 2 more"
    )
    size = (root / "ant/0.png").stat().st_size
    (root / "ant/0.png").write_bytes((root / "ant/0.png").read_bytes() + b"x")
    assert differences(record, ("ant", "bee", "cat"), sets())[2] == "1 image with another size or label: ant/0.png"
    assert (root / "ant/0.png").stat().st_size == size + 1


def test_a_renamed_class(recorded):
    root, record = recorded
    (root / "ant").rename(root / "wasp")
    named, moved, *images = found(record, root)
    assert named == "class ant is called wasp now"
    assert moved == "other numbers for 2 classes: bee, cat"
    assert any("images gone: ant/" in line for line in images) and any("images new: wasp/" in line for line in images)
    (root / "wasp/0.png").rename(root / "bee/9.png")
    shutil.rmtree(root / "wasp")
    with pytest.raises(RMTError, match="the run has 3 classes and the data have 2, to which it cannot be resumed"):
        require_same_number(record, splits_of(root)[0])


def test_images_that_change_their_split(tmp_path):
    whole = open_splits(str(folder(tmp_path / "photos")), holdout=1).train.parent
    record = tmp_path / "record"
    write_record(record, whole.classes, {"train": Subset(whole, range(8)), "val": Subset(whole, range(8, 12))})
    now = {"train": Subset(whole, range(1, 9)), "val": Subset(whole, [0, *range(9, 12)])}
    assert differences(record, whole.classes, now) == ["2 images in another split: cat/0.png, ant/0.png"]
    again = {"train": Subset(whole, range(8)), "val": Subset(whole, [9, 8, 10, 11])}
    assert differences(record, whole.classes, again) == ["the order of the images"]


def test_detection_and_masks(tmp_path):
    made = detection_sets.splits()
    root = detection_sets.make_yolo(tmp_path / "yolo", made)

    def boxes():
        opened = open_detection(detection_layout(str(root)), with_masks=False, empty_images=True)
        return {"train": opened.train, "val": opened.val}

    write_record(tmp_path / "one", detection_sets.CLASSES, boxes())
    assert differences(tmp_path / "one", detection_sets.CLASSES, boxes()) == []
    label = root / f"labels/train/{made['train'][0].stem}.txt"
    label.write_text(label.read_text().replace("0.", "0.0", 1))
    (line,) = differences(tmp_path / "one", detection_sets.CLASSES, boxes())
    assert line.startswith("1 image with another size or label: ") and made["train"][0].stem in line
    pairs = make_segments(tmp_path / "masks", train=3, val=1)
    before = open_segmentation(str(pairs))
    write_record(tmp_path / "two", before.train.classes.names, {"train": before.train, "val": before.val})
    mask = pairs / "masks/train/1.png"
    mask.write_bytes(mask.read_bytes() + b"x")
    after = open_segmentation(str(pairs))
    now = differences(tmp_path / "two", after.train.classes.names, {"train": after.train, "val": after.val})
    assert now == ["1 image with another size or label: 1.png"]


def test_what_a_run_held_out_is_recognised(tmp_path):
    whole = open_splits(str(folder(tmp_path / "photos")), holdout=1).train.parent
    part = Subset(whole, [1, 5])
    assert recognised(HoldOut(0.2, 0), lambda: part) is part  # of an earlier version: nothing to compare
    assert recognised(HoldOut(0.2, 0, (digest(part),)), lambda: part) is part
    assert recognised(HoldOut(0.2, 0, ("0" * 32,)), lambda: part) is None

    def impossible():
        raise RMTError("cannot be divided")

    assert recognised(HoldOut(0.2, 0, ("0" * 32,)), impossible) is None


@pytest.mark.parametrize("spoil", ["cut", "text", "foreign", "endless"])
def test_a_damaged_record_is_named(recorded, spoil):
    root, record = recorded
    content = record.read_bytes()
    damaged = {
        "cut": content[: len(content) // 2],
        "text": b"nothing",
        "foreign": gzip.compress(b'{"format": 1}\n'),
        "endless": gzip.compress(b'{"classes": ["ant", "bee", "cat"]}\n' + b"x" * 2**18),
    }
    record.write_bytes(damaged[spoil])
    with pytest.raises(RMTError, match="record: not a complete record of the data; delete it to resume without it"):
        found(record, root)


class Many:
    classes = ("a",)

    def __init__(self, count):
        self.labels = np.zeros(count, dtype=np.int64)

    def __len__(self):
        return len(self.labels)

    def facts(self, index):
        return f"folder/{index:09d}.jpg", str(index % 1000)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path):
    peaks = []
    for count in (500, 5_000):
        images = {"train": Many(count)}
        tracemalloc.start()
        write_record(tmp_path / "record", ("a",), images)
        assert differences(tmp_path / "record", ("a",), images) == []
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_held_out_images_and_masks_are_recognised_wherever_they_lie(tmp_path):
    """What a run held out of undivided boxes or masks is found again by its digest, and not in changed data."""
    made = detection_sets.splits()
    detection_sets.make_labelimg(tmp_path / "boxes", made)
    whole = make_segments(tmp_path / "divided", train=9, val=1)
    for kind in ("images", "masks"):
        shutil.copytree(whole / kind / "train", tmp_path / "masks" / kind)
    shutil.copy(whole / "classes.txt", tmp_path / "masks")

    def boxes(root):
        return detection_layout(str(root / "boxes"))

    val = open_detection(boxes(tmp_path), with_masks=False, empty_images=True, holdout=0.25, seed=3).val
    held_boxes = HoldOut(0.25, 3, (digest(val),))
    pairs = open_segmentation(str(tmp_path / "masks"), holdout=0.25, seed=3).val
    held_masks = HoldOut(0.25, 3, (digest(pairs),))
    copy = shutil.copytree(tmp_path, tmp_path.parent / f"{tmp_path.name}-copy")
    for changed in (False, True):
        if changed:
            (copy / "boxes" / val.table.files[val.indices[0]]).unlink()
            (copy / "masks/images" / pairs.images[0].name).unlink()
        found = [
            open_detection_split(boxes(copy), with_masks=False, held=held_boxes),
            open_segmentation_evaluation(str(copy / "masks"), held=held_masks),
        ]
        assert [part for _, part in found] == (["all"] * 2 if changed else ["held out"] * 2)
    assert digest(found[0].images) != digest(val)
