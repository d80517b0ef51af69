"""Labels in a CSV file beside a folder of images, as Kaggle's data sets have them."""

import numpy as np
import pytest
from helpers.image_sets import picture

from rmt.data.sources.tables import TableSet
from rmt.data.splits import open_evaluation_split, open_splits
from rmt.errors import RMTError


def make(root, text, folder="images", count=12, name="train.csv"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture(number).save(root / folder / f"a{number}.jpg")
    (root / name).write_text(text)
    return root


def rows(pattern="a{}.jpg,{}", count=12, heading="image_id,label"):
    return "\n".join([heading, *(pattern.format(n, ("dog", "cat")[n % 2]) for n in range(count))]) + "\n"


@pytest.mark.parametrize(
    ("pattern", "heading", "folder"),
    [
        ("a{}.jpg,{}", "image_id,label", "images"),
        ("a{},{}", "id,breed", "train"),  # without extension, labels in the only other column
        ("{1},7,images/a{0}.jpg", "class,fold,path", "images"),
        ("./a{}.jpg;{}", "file;target", "."),
        ('"a{}.jpg","{}"', "\ufefffile,name", "train_images"),
    ],
)
def test_columns_are_found_by_their_content(tmp_path, pattern, heading, folder):
    train, held, skipped = open_splits(str(make(tmp_path, rows(pattern, heading=heading), folder)), holdout=0.25)
    assert train.classes == ("cat", "dog") and (len(train), len(held)) == (9, 3)
    assert skipped == {"train and val": {}}
    for index in range(len(train)):
        number = int(train.name(index).rpartition("/a")[2].removesuffix(".jpg"))
        assert train.classes[train.labels[index]] == ("dog", "cat")[number % 2]
        assert np.asarray(train.load(index)).shape == (10, 12, 3)


def test_numbers_are_classes_in_their_order(tmp_path):
    text = "id,label\n" + "".join(f"a{n},{(10, 9, 2)[n % 3]}\n" for n in range(12))
    assert open_splits(str(make(tmp_path, text)), holdout=0.25).train.classes == ("2", "9", "10")


def test_splits_of_their_own_and_a_test_file_without_labels(tmp_path):
    root = make(tmp_path, rows())
    make(root, rows(count=4), name="val.csv")
    (root / "test.csv").write_text("image_id\na0.jpg\n")
    train, val, _ = open_splits(str(root))
    assert (len(train), len(val)) == (12, 4)
    with pytest.raises(RMTError, match="has train, val only"):
        open_evaluation_split(str(root), split="test")


@pytest.mark.parametrize("folder", ["val", "validation"])
def test_images_of_one_name_are_those_of_the_split(tmp_path, folder):
    root = make(tmp_path, rows(), "train")
    assert open_splits(str(make(root, rows(count=5), "train", name="val.csv"))).val.name(0).endswith("/train/a0.jpg")
    make(root, rows(count=5) + "train/a9.jpg,cat\n", folder, count=4, name="val.csv")
    train, val, skipped = open_splits(str(root))
    assert {train.name(index).split("/")[-2] for index in range(12)} == {"train"}
    assert [val.name(index).removeprefix(f"{root}/") for index in (0, 3, 4)] == [
        *(f"{folder}/a0.jpg", f"{folder}/a3.jpg", "train/a9.jpg")
    ]
    assert skipped["val"] == {"row whose image is missing": 1}  # a4, which is in train/


def test_rows_that_cannot_be_used_are_counted(tmp_path):
    root = make(tmp_path, rows() + "gone.jpg,cat\na0.jpg,\n\n")
    assert open_splits(str(root), holdout=0.25).skipped == {
        "train and val": {"row whose image is missing": 1, "row without a label": 1}
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,x,y\na0,1,2\n", "which column is the label. There are x, y; call it 'label'"),
        ("id,label\nb0,cat\nb1,dog\n", "no column names images in .* .first value: 'b0'"),
        ("id,label\na0,cat\na1,cat\n", "1 different values in the column 'label'"),
        ("id\na0\n", "at least two columns"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(RMTError, match=said) as caught:
        open_splits(str(make(tmp_path, text)))
    assert "\n" not in str(caught.value) and "train.csv" in str(caught.value)


def test_names_of_columns_are_escaped_and_cut_in_messages(make_folder, tmp_path):
    with pytest.raises(RMTError, match=r"There are \\x1bx{195}…, y; call it 'label'"):
        open_splits(str(make(tmp_path, f"id,\x1b{'x' * 5000},y\na0,1,2\n")))


def test_class_folders_are_preferred(make_folder):
    root = make_folder({"train/ant": 3, "train/bee": 3, "val/ant": 1, "val/bee": 1})
    (root / "train.csv").write_text("id,label\n000,cat\n")
    assert open_splits(str(root)).train.classes == ("ant", "bee")


def test_an_image_in_two_rows_is_one_image_and_two_labels_are_refused(tmp_path):
    text = rows()
    repeated = TableSet(make(tmp_path / "twice", text + text.partition("\n")[2]) / "train.csv")
    assert len(repeated) == 12 and repeated.skipped == {"row of an image that another row lists": 12}
    with pytest.raises(
        RMTError, match=r"a0.jpg has the labels dog, other; a classifier learns one label of each image"
    ):
        TableSet(make(tmp_path / "both", text + "a0.jpg,other\n") / "train.csv")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_id,label,label\n" + "a0.jpg,0,1\n" * 3, "columns of the same name: label; rename or remove one"),
        ("image_id,label\n" + "x" * (2**22 + 2), "a line of more than 4,194,304 characters"),
    ],
    ids=["columns", "line"],
)
def test_a_heading_or_line_that_no_list_has_is_refused(tmp_path, text, said):
    with pytest.raises(RMTError, match=said):
        TableSet(make(tmp_path, text) / "train.csv")
