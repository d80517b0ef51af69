"""From `--data` to images: every layout that is documented, and the mistakes in between."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from image_sets import ANT_OR_BEE, picture, row

from rmt.data import ImageSet, open_all, open_split
from rmt.errors import RMTError

Make = Callable[..., Path]


def names(image_set: ImageSet) -> set[str]:
    return {image_set.name(i) for i in range(len(image_set))}


@pytest.mark.parametrize("val", ["val", "validation", "valid", "dev", "test"])
def test_folder_with_both_splits(make_folder: Make, val: str):
    root = make_folder({"train/ant": 3, "train/bee": 2, f"{val}/ant": 1, f"{val}/bee": 1})
    train, held = open_split(str(root), "train"), open_split(str(root), "val")
    assert (len(train), len(held)) == (5, 2)
    assert train.classes == held.classes == ("ant", "bee")
    assert names(open_all(str(root))) == names(held)


def test_val_is_preferred_to_test(make_folder: Make):
    root = make_folder({f"{split}/{name}": 1 for split in ("train", "val", "test") for name in ("ant", "bee")})
    assert all("/val/" in name for name in names(open_split(str(root), "val")))


@pytest.mark.parametrize("layout", ["{}", "train/{}"])
def test_folder_without_validation_is_divided(make_folder: Make, layout: str):
    root = make_folder({layout.format("ant"): 20, layout.format("test"): 10})  # a class may be called test
    train, held = (open_split(str(root), split, holdout=0.2, seed=3) for split in ("train", "val"))
    assert np.bincount(held.labels).tolist() == [4, 2]
    assert not names(train) & names(held)
    assert len(names(train) | names(held)) == 30
    assert names(open_split(str(root), "val", holdout=0.2, seed=3)) == names(held)
    assert names(open_split(str(root), "val", holdout=0.2, seed=4)) != names(held)
    assert len(open_all(str(root))) == 30
    with pytest.raises(RMTError, match="no fraction"):
        open_split(str(root), "train", holdout=0.0)


def test_only_a_validation_split_can_be_evaluated_but_not_trained_on(make_folder: Make):
    root = make_folder({"val/ant": 1, "val/bee": 1})
    assert len(open_all(str(root))) == 2
    with pytest.raises(RMTError, match="no training split"):
        open_split(str(root), "train")


def test_different_classes_are_named(make_folder: Make):
    root = make_folder({"train/ant": 1, "train/bee": 1, "train/cat": 1, "val/ant": 1, "val/bee": 1, "val/dog": 1})
    for split in ("train", "val"):
        with pytest.raises(RMTError, match="different classes: cat only in train; dog only in val"):
            open_split(str(root), split)


def test_shards_with_different_classes_are_named(tmp_path: Path):
    write(tmp_path / "train.parquet", 4)
    other = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "cat"])})
    write(tmp_path / "val.parquet", 4, other)
    with pytest.raises(RMTError, match="different classes: bee only in train; cat only in val"):
        open_split(str(tmp_path), "train")


def test_hidden_folders_are_no_classes(make_folder: Make):
    root = make_folder({"train/ant": 1, "train/bee": 1, "train/.cache": 1, "val/ant": 1, "val/bee": 1})
    assert open_split(str(root), "train").skipped == {"hidden": 1}


@pytest.mark.parametrize("pattern", ["{}-00000-of-00001", "{}", "data/{}-00000-of-00001", "{}/0000"])
def test_shards_of_both_splits(tmp_path: Path, pattern: str):
    write(tmp_path / f"{pattern.format('train')}.parquet", 6)
    write(tmp_path / f"{pattern.format('validation')}.parquet", 4)
    assert len(open_split(str(tmp_path), "train")) == 6
    assert len(open_split(str(tmp_path), "val")) == len(open_all(str(tmp_path))) == 4


def test_shards_without_split_names_are_divided(tmp_path: Path):
    for number in range(2):
        write(tmp_path / f"part-{number:05d}-of-00002.parquet", 10)
    train, held = (open_split(str(tmp_path), split, holdout=0.2) for split in ("train", "val"))
    assert np.bincount(train.labels).tolist() == [8, 8]
    assert np.bincount(held.labels).tolist() == [2, 2]
    (tmp_path / "part-00000-of-00002.parquet").unlink()
    with pytest.raises(RMTError, match="1 of 2 shards are missing"):
        open_split(str(tmp_path), "train")


def test_sample_is_read_by_the_same_reader():
    train, held = open_split("sample", "train"), open_split("sample", "val")
    assert (len(train), len(held), len(open_all("sample"))) == (8000, 2000, 2000)
    assert type(train).__name__ == "ShardSet"


def test_mistakes(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    picture(0).save(tmp_path / "one.jpg")
    cases = {"nowhere": "no such folder", "empty": "no class folder inside", "one.jpg": "a file, not a folder"}
    for name, line in cases.items():
        with pytest.raises(RMTError, match=line):
            open_split(str(tmp_path / name), "train")
    with pytest.raises(RMTError, match="no data given"):
        open_split("", "train")


def write(path: Path, count: int, features: datasets.Features = ANT_OR_BEE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [row(i) for i in range(count)], "label": [i % 2 for i in range(count)]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
