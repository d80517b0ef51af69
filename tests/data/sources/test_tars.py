"""WebDataset tars as a dataset with random access, read safely."""

import pickle

import numpy as np
import pytest
from helpers.image_sets import encode, picture, write_tar

from rmt.data.sources import conversion
from rmt.data.sources.remote import RemoteFile
from rmt.data.sources.shards import ShardSet
from rmt.data.splits import open_splits, open_train
from rmt.errors import RMTError


def sample(number):
    return {"png": encode(picture(number), "PNG"), "cls": str(number % 3).encode()}


@pytest.fixture
def folder(tmp_path):
    write_tar(tmp_path / "train-0000.tar", {f"{i:04d}": sample(i) for i in range(5)})
    write_tar(tmp_path / "train-0001.tar", {f"{i:04d}": sample(i) for i in range(5, 9)})
    write_tar(tmp_path / "val-0000.tar", {f"{i:04d}": sample(i) for i in range(3)})
    return tmp_path


def test_every_sample_in_order(folder):
    images = open_splits(str(folder)).train
    assert len(images) == 9 and images.classes == ("0", "1", "2")
    assert images.labels.tolist() == [i % 3 for i in range(9)]
    travelled = pickle.loads(pickle.dumps(images))
    for i in (8, 0, 5):
        assert np.array_equal(np.asarray(images.load(i)), np.asarray(picture(i)))
        assert np.array_equal(np.asarray(travelled.load(i)), np.asarray(picture(i)))
    assert images.name(6).endswith("train-0001.tar[0006]")
    assert len(open_splits(str(folder)).val) == 3


def test_class_names_beside_the_tars(folder):
    (folder / "classes.txt").write_text("ant\nbee\ncat\n")
    assert open_splits(str(folder)).val.classes == ("ant", "bee", "cat")
    (folder / "classes.txt").write_text("ant\nbee\n")
    with pytest.raises(RMTError, match="label 2, but only 2 classes"):
        open_splits(str(folder))


@pytest.mark.parametrize("name", ["data", "train"])
def test_class_names_above_the_folder_of_the_tars(folder, name):
    (folder / name).mkdir()
    for tar in folder.glob("train-*.tar"):
        tar.rename(folder / name / tar.name)
    (folder / "classes.txt").write_text("ant\nbee\ncat\n")
    assert open_splits(str(folder)).train.classes == ("ant", "bee", "cat")
    (folder / name / "classes.txt").write_text("cow\nbee\nant\n")  # that beside the tars comes first
    assert open_train(str(folder)).classes == ("cow", "bee", "ant")


@pytest.mark.parametrize(
    ("url", "looked_in"),
    [
        ("s3://bucket/data/train", ["s3://bucket/data/train", "s3://bucket/data"]),
        ("s3://bucket/photos", ["s3://bucket/photos"]),
        ("s3://data", ["s3://data"]),
    ],
)
def test_class_names_are_looked_for_inside_the_store(monkeypatch, url, looked_in):
    looked = []
    monkeypatch.setattr(conversion, "read_text", looked.append)
    assert conversion.class_names(RemoteFile(f"{url}/0.tar", 1), None) == ()
    assert looked == [f"{folder}/classes.txt" for folder in looked_in]


def test_tars_of_a_split_in_two_folders_need_the_same_names(folder):
    (folder / "data").mkdir()
    (folder / "train-0001.tar").rename(folder / "data/train-0001.tar")
    assert open_splits(str(folder)).train.labels.tolist() == [i % 3 for i in range(9)]
    (folder / "data/classes.txt").write_text("cat\nbee\nant\n")
    with pytest.raises(RMTError, match=r"train-0000\.tar has no class names, and other .* the same classes.txt"):
        open_splits(str(folder))
    (folder / "classes.txt").write_text("ant\nbee\ncat\n")
    with pytest.raises(RMTError, match=r"train-0000\.tar and .*train-0001\.tar list different classes"):
        open_splits(str(folder))
    (folder / "data/classes.txt").write_text("ant\nbee\ncat\n")
    assert open_splits(str(folder)).train.classes == ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ({"a": {"png": b"x", "txt": b"a caption"}}, "one image and a .cls"),
        ({"a": {"cls": b"1", "txt": b"a caption"}}, "one image and a .cls"),
        ({"a": {"png": b"x", "cls": b"cat"}}, ".cls must hold the number of a class"),
    ],
    ids=["no label", "no image", "a word for a label"],
)
def test_other_contents_are_refused(tmp_path, samples, message):
    with pytest.raises(RMTError, match=message) as error:
        ShardSet([write_tar(tmp_path / "train.tar", samples)])
    assert "\n" not in str(error.value)


class Code:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def test_other_members_are_ignored_and_nothing_is_unpickled_or_extracted(tmp_path, monkeypatch):
    inside = tmp_path / "here" / "inside"
    inside.mkdir(parents=True)
    monkeypatch.chdir(inside)
    code = {kind: pickle.dumps(Code(tmp_path / f"ran-{kind}")) for kind in ("pth", "pkl", "pyd", "npy")}
    samples = {f"../{i}": sample(i) | code for i in range(3)} | {"README": {"txt": b"hello"}}
    images = ShardSet([write_tar(tmp_path / "train.tar", samples)])
    assert len(images) == 3 and images.name(1).endswith("train.tar[../1]")
    assert np.array_equal(np.asarray(images.load(1)), np.asarray(picture(1)))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "train.tar"]
    assert not list((tmp_path / "here").glob("*.*"))


def test_a_tar_that_was_cut_off_is_named(folder):
    path = folder / "train-0001.tar"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(RMTError, match=r"train-0001\.tar: not a whole tar"):
        open_splits(str(folder))
