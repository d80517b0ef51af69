"""From `--data` to images: every layout that is documented, and the mistakes in between."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers.image_sets import ANT_OR_BEE, picture, row

from rmt.check.opened import Where, open_data
from rmt.data import splits
from rmt.data.sets import ImageSet, skip_lines
from rmt.data.splits import open_evaluation_split, open_splits, open_test, present_splits, unused_beside
from rmt.errors import RMTError
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify.data import ClassifyData

Make = Callable[..., Path]


def names(image_set: ImageSet) -> set[str]:
    return {image_set.name(i) for i in range(len(image_set))}


@pytest.mark.parametrize("val", ["val", "validation", "valid", "dev"])
def test_folder_with_both_splits(make_folder: Make, val: str):
    root = make_folder({"train/ant": 3, "train/bee": 2, f"{val}/ant": 1, f"{val}/bee": 1})
    train, held, _ = open_splits(str(root))
    assert (len(train), len(held)) == (5, 2)
    assert train.classes == held.classes == ("ant", "bee")
    assert names(open_evaluation_split(str(root)).images) == names(held)


def test_val_is_preferred_to_test(make_folder: Make):
    root = make_folder({f"{split}/{name}": 1 for split in ("train", "val", "test") for name in ("ant", "bee")})
    assert all("/val/" in name for name in names(open_splits(str(root)).val))


@pytest.mark.parametrize("name", ["test", "testing"])
def test_images_to_test_are_not_those_to_validate(make_folder: Make, monkeypatch, name: str):
    root = make_folder({"train/ant": 20, "train/bee": 10, f"{name}/ant": 2, f"{name}/bee": 1})
    train, held, _ = open_splits(str(root), holdout=0.2)
    assert (len(train), np.bincount(held.labels).tolist()) == (24, [4, 2])
    assert present_splits(str(root)) == ("train", "test")
    test, _ = open_test(str(root), train)
    assert len(test) == 3 and not names(test) & (names(train) | names(held))
    images, part = open_evaluation_split(str(root))
    assert (names(images), part) == (names(test), "test")
    monkeypatch.setattr("rmt.data.splits.MOST_HELD_OUT", 3)
    assert len(open_splits(str(root), holdout=0.2).val) == 3
    assert len(open_splits(str(root), holdout=5).val) == 5
    (root / name / "bee").rename(root / name / "wasp")
    with pytest.raises(RMTError, match="train and test have different classes: bee only in train; wasp only in test"):
        open_test(str(root), train)


def test_a_split_can_be_named(make_folder: Make):
    root = make_folder({f"{split}/{name}": n for n, split in enumerate(("train", "val", "test"), 1) for name in "ab"})
    for count, split in enumerate(("train", "val", "test"), 1):
        images, part = open_evaluation_split(str(root), split=split)
        assert (len(images), part) == (2 * count, split)
    with pytest.raises(RMTError, match="--split val: .*train has train only"):
        open_evaluation_split(str(root / "train"), split="val")


@pytest.mark.parametrize("layout", ["{}", "train/{}"])
def test_folder_without_validation_is_divided(make_folder: Make, layout: str):
    root = make_folder({layout.format("ant"): 20, layout.format("test"): 10})  # a class may be called test
    train, held, _ = open_splits(str(root), holdout=0.2, seed=3)
    assert np.bincount(held.labels).tolist() == [4, 2]
    assert not names(train) & names(held)
    assert len(names(train) | names(held)) == 30
    assert names(open_splits(str(root), holdout=0.2, seed=3).val) == names(held)
    assert names(open_splits(str(root), holdout=0.2, seed=4).val) != names(held)
    assert len(open_evaluation_split(str(root)).images) == 30
    with pytest.raises(RMTError, match="no fraction"):
        open_splits(str(root), holdout=0.0)


def test_only_a_validation_split_can_be_evaluated_but_not_trained_on(make_folder: Make):
    root = make_folder({"val/ant": 1, "val/bee": 1})
    assert len(open_evaluation_split(str(root)).images) == 2
    with pytest.raises(RMTError, match="no training split"):
        open_splits(str(root))


def test_different_classes_are_named(make_folder: Make):
    root = make_folder({"train/ant": 1, "train/bee": 1, "train/cat": 1, "val/ant": 1, "val/bee": 1, "val/dog": 1})
    with pytest.raises(RMTError, match="different classes: cat only in train; dog only in val"):
        open_splits(str(root))


def test_shards_with_different_classes_are_named(tmp_path: Path):
    write(tmp_path / "train.parquet", 4)
    other = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "cat"])})
    write(tmp_path / "val.parquet", 4, other)
    with pytest.raises(RMTError, match="different classes: bee only in train; cat only in val"):
        open_splits(str(tmp_path))


def test_shards_that_list_the_classes_in_another_order(tmp_path: Path):
    """The labels of each split refer to the classes of train; within a split such shards are refused."""
    turned = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["bee", "ant"])})
    write(tmp_path / "train.parquet", 4)
    for name in ("val", "test"):
        write(tmp_path / f"{name}.parquet", 4, turned)
    train, val, _ = open_splits(str(tmp_path))
    test, _ = open_test(str(tmp_path), train)
    assert train.classes == val.classes == test.classes == ("ant", "bee")
    assert [list(part.labels) for part in (train, val, test)] == [[0, 1, 0, 1], [1, 0, 1, 0], [1, 0, 1, 0]]
    write(tmp_path / "train-1.parquet", 4, turned)
    with pytest.raises(RMTError, match=r"train.*parquet list different classes, or the same in another order: write"):
        open_splits(str(tmp_path))
    numbers = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    write(tmp_path / "train-1.parquet", 4, numbers)
    with pytest.raises(RMTError, match="train-1.parquet has no class names, and other shards have: write the shards"):
        open_splits(str(tmp_path))


def test_hidden_folders_are_no_classes(make_folder: Make):
    root = make_folder({"train/ant": 1, "train/bee": 1, "train/.cache": 1, "val/ant": 1, "val/bee": 1})
    assert open_splits(str(root)).skipped == {"train": {"hidden": 1}, "val": {}}


@pytest.mark.parametrize("pattern", ["{}-00000-of-00001", "{}", "data/{}-00000-of-00001", "{}/0000"])
def test_shards_of_both_splits(tmp_path: Path, pattern: str):
    write(tmp_path / f"{pattern.format('train')}.parquet", 6)
    write(tmp_path / f"{pattern.format('validation')}.parquet", 4)
    assert len(open_splits(str(tmp_path)).train) == 6
    assert len(open_splits(str(tmp_path)).val) == len(open_evaluation_split(str(tmp_path)).images) == 4


def test_what_is_passed_over_is_reported_once_for_each_source(make_folder: Make):
    root = make_folder({"train/ant": 9, "train/bee": 9, "val/ant": 1, "val/bee": 1})
    for split, count in (("train", 10), ("val", 4)):
        for number in range(count):
            (root / split / "ant" / f"{number}.txt").touch()
    skipped = open_splits(str(root)).skipped
    assert skipped == {"train": {"not an image": 10}, "val": {"not an image": 4}}
    assert skip_lines(skipped) == ["skipped in train: 10 × not an image", "skipped in val: 4 × not an image"]
    divided = open_splits(str(root / "train"), holdout=0.2).skipped
    assert divided == {"train and val": {"not an image": 10}}  # two sets, but one folder
    assert skip_lines({"train": {}, "val": {}}) == []


@pytest.mark.parametrize("data", ["shards", "folders"])
def test_each_split_is_opened_once(make_folder: Make, tmp_path: Path, monkeypatch, data):
    if data == "folders":
        root = make_folder({"train/ant": 2, "train/bee": 2, "val/ant": 1, "val/bee": 1})
    else:
        root = tmp_path
        for split in ("train", "val"):
            write(root / f"{split}.parquet", 4)
    opened, original = [], splits._open
    monkeypatch.setattr(splits, "_open", lambda part, buffer: opened.append(part) or original(part, buffer))
    recipe = ClassifyRecipe(name="once", data=str(root), image_size=32, batch_size=2, accumulate=1)
    ClassifyData.open(recipe)
    assert len(opened) == 2


def test_shards_without_split_names_are_divided(tmp_path: Path):
    for number in range(2):
        write(tmp_path / f"part-{number:05d}-of-00002.parquet", 10)
    train, held, _ = open_splits(str(tmp_path), holdout=0.2)
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(held.labels).tolist() == [2, 2]
    (tmp_path / "part-00000-of-00002.parquet").unlink()
    with pytest.raises(RMTError, match="1 of 2 shards missing"):
        open_splits(str(tmp_path))


def test_shards_of_no_split_are_named(tmp_path: Path):
    for name in ("train-0", "val-0", "unsupervised-0", "data/more-0"):
        write(tmp_path / f"{name}.parquet", 4)
    (tmp_path / "val.tar").touch()
    recipe = ClassifyRecipe(name="unused", data=str(tmp_path), image_size=32, batch_size=2, accumulate=1)
    line = "not used, since beside the splits and in none: data/more-0.parquet, unsupervised-0.parquet, val.tar"
    assert ClassifyData.open(recipe).describe(recipe)[-1] == line
    assert open_data(Where(str(tmp_path))).notes == [line]
    assert unused_beside("sample") == []


def test_sample_is_read_by_the_same_reader():
    train, held, _ = open_splits("sample", holdout=500)
    test, _ = open_test("sample", train)
    assert (len(train), len(held), len(test), len(open_evaluation_split("sample").images)) == (7500, 500, 2000, 2000)
    assert type(test).__name__ == "ShardSet"


def test_mistakes(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    picture(0).save(tmp_path / "one.jpg")
    cases = {"nowhere": "no such folder", "empty": "no class folder inside", "one.jpg": "a file, not a folder"}
    for name, line in cases.items():
        with pytest.raises(RMTError, match=line):
            open_splits(str(tmp_path / name))
    with pytest.raises(RMTError, match="no data given"):
        open_splits("")


def write(path: Path, count: int, features: datasets.Features = ANT_OR_BEE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [row(i) for i in range(count)], "label": [i % 2 for i in range(count)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
