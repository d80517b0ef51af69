"""Masks that do not belong to the class list are refused in one line that says what was found and how to say it."""

import re

import numpy as np
import pytest
from helpers.segment_data import CLASSES, COLOURS, make_segments
from PIL import Image

from rmt.data.segmentation.class_use import ClassUse, check_class_list
from rmt.data.segmentation.dataset import open_segmentation
from rmt.errors import RMTError
from rmt.recipes import SegmentRecipe
from rmt.tasks.segment.data import SegmentData


def made(root, classes, convert=lambda mask: mask, train=6):
    """Pairs whose masks are `convert(indices)`, and the text of the class list."""
    make_segments(root, train=train, val=2)
    for file in root.glob("masks/*/*.png"):
        Image.fromarray(convert(np.asarray(Image.open(file)))).save(file)
    (root / "classes.txt").write_text(classes)
    return str(root)


def opened(root, **options):
    recipe = SegmentRecipe(name="x", data=root, crop_size=32, long_side=64, short_side=32, **options)
    return SegmentData.open(recipe)


def binary(mask):
    return np.where(mask == 1, 255, 0).astype(np.uint8)


def test_0_and_255_under_two_classes(tmp_path):
    root = made(tmp_path, "background\nobject\n", binary)
    share = np.mean([np.asarray(Image.open(file)) == 255 for file in tmp_path.glob("masks/train/*.png")])
    with pytest.raises(RMTError) as error:
        opened(root)
    assert str(error.value) == (
        f"{root}: no training mask shows object (value 1); the masks have the values 0, 255, of which 255 "
        f"({100 * share:.2g} % of the pixels) is ignored: if it means object, write its line in the class list as: "
        "object 255; else as: void 1"
    )
    (tmp_path / "classes.txt").write_text("background\nobject 255\n")
    data = opened(root)
    assert data.classes == ("background", "object")
    assert data.describe()[0] == f"classes as in {tmp_path}/classes.txt, with the mask values object 255"
    for index, file in enumerate(sorted(tmp_path.glob("masks/train/*.png"))):
        np.testing.assert_array_equal(data.train.load(index).mask, np.asarray(Image.open(file)) == 255)


@pytest.mark.parametrize(
    ("classes", "convert", "message"),
    [
        (
            "a\n",
            lambda m: m * 0,
            "the class list has one class, a, so that every pixel would be a: list",
        ),
        (
            "a\nb\nc\nd\n",
            lambda m: m,
            r"no training mask shows d \(value 3\); the masks have the values 0, 1, 2: give .*: void 3 \(",
        ),
        (
            "a\nb\n",
            lambda m: m,
            r"the class list does not fit 6 of 6 masks.*value 2 .* beyond .*: void 2; if it is .*b 2",
        ),
        ("a\nb\nc\n", lambda m: m * 100, r"value 100 .* beyond .*\(0…2\).*c 100"),
        ("a 0 0 0\nb 9 9 9\nc 1 2 3\n", lambda m: m, "a grey mask whose value 1 .* remove the colours from the list"),
        ("a 0 0 0\nb 9 9 9\n", lambda m: m.astype(np.uint16), "16-bit values, and the class list has colours"),
        ("a\nb\nc\n", lambda m: np.array(COLOURS, np.uint8)[m], "an RGB mask where class indices are expected"),
        (
            "\n".join(f"{n} {' '.join(map(str, c))}" for n, c in zip("abcd", [*COLOURS, (1, 2, 3)], strict=True)),
            lambda m: np.array(COLOURS, np.uint8)[m],
            "no training mask shows d, whose colour is 1 2 3: correct it",
        ),
    ],
)
def test_masks_that_do_not_belong_to_the_list(tmp_path, classes, convert, message):
    with pytest.raises(RMTError, match=message):
        opened(made(tmp_path, classes, convert))


def test_the_remedy_for_an_absent_class_keeps_the_values_of_the_others(tmp_path):
    root = made(tmp_path, "background\nred\nblue\n", lambda mask: np.where(mask == 1, 0, mask).astype(np.uint8))
    with pytest.raises(RMTError, match="no training mask shows red .*or replace its line by: void 1") as error:
        opened(root)
    remedy = re.search("void [0-9]+", str(error.value))[0]
    (tmp_path / "classes.txt").write_text(f"background\n{remedy}\nblue\n")
    data = opened(root)
    assert data.classes == ("background", "blue")
    for index, file in enumerate(sorted(tmp_path.glob("masks/train/*.png"))):
        np.testing.assert_array_equal(data.train.load(index).mask, np.asarray(Image.open(file)) == 2)


def test_grey_colours_are_colours_of_grey_masks(tmp_path):
    data = opened(made(tmp_path, "background 0 0 0\nobject 255 255 255\n", binary))
    assert set(np.unique(data.train.load(0).mask)) <= {0, 1} and data.use.shown.all()


@pytest.mark.parametrize("line", ["void 1", "ignore: 1"])
def test_a_void_value_in_the_middle(tmp_path, line):
    data = opened(made(tmp_path, f"background\nblue\n{line}\n"))
    masks = [np.asarray(Image.open(file)) for file in sorted(tmp_path.glob("masks/train/*.png"))]
    for index, mask in enumerate(masks):
        np.testing.assert_array_equal(data.train.load(index).mask, np.array([0, 255, 1])[mask])
    assert data.use.pixels.tolist() == [sum(int((mask == value).sum()) for mask in masks) for value in (0, 2)]


def test_one_mask_of_many_that_does_not_fit_is_skipped(tmp_path):
    root = made(tmp_path, "\n".join(CLASSES), train=24)
    file = tmp_path / "masks/train/3.png"
    Image.fromarray(np.asarray(Image.open(file)) + 50).save(file)
    data = opened(root)
    assert data.notes == (f"the class list does not fit 1 mask, skipped: {file}",)
    assert data.notes[0] in data.describe()


def test_all_masks_are_searched_before_a_class_is_absent(tmp_path):
    root = made(tmp_path, "\n".join(CLASSES), lambda mask: np.where(mask == 2, 0, mask).astype(np.uint8), train=9)
    file = tmp_path / "masks/train/7.png"
    mask = np.asarray(Image.open(file)).copy()
    mask[0, 0] = 2
    Image.fromarray(mask).save(file)
    train = open_segmentation(root).train
    assert ClassUse.of(train, 2, search=False).shown[2] == 0
    use = ClassUse.of(train, 2)
    assert use.shown[2] == 1 and check_class_list(train, use, root) == []


def test_ade20k_s_own_list_may_have_absent_classes(tmp_path):
    make_segments(tmp_path, train=4, val=2, ade=True)
    (tmp_path / "classes.txt").write_text("\n".join([*CLASSES, "unicorn"]))
    data = opened(str(tmp_path), zero_is_ignored=True)
    assert data.notes == ("no training mask shows unicorn",)


def test_the_first_lines_give_the_images_of_each_class(tmp_path):
    data = opened(made(tmp_path, "\n".join(CLASSES)))
    lines = data.describe()
    assert lines[1:] == [
        "train: 6 images; images that show the class: background 6, red 6, blue 6",
        "val: 2 images; images that show the class: background 2, red 2, blue 2",
    ]
