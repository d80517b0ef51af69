"""Masks as indices, with palettes, by colour; and each way in which one can be wrong."""

import numpy as np
import pytest
from PIL import Image

from rmt.data.images import BadImage
from rmt.data.segmentation.masks import IGNORE, ClassList, read_mask
from rmt.errors import RMTError

INDEX = ClassList(("sky", "tree", "road"), {})
VALUES = np.array([[0, 1, 2], [2, 1, 255]], dtype=np.uint8)


def saved(tmp_path, image, name="mask.png"):
    image.save(tmp_path / name)
    return tmp_path / name


def listing(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    return path


def test_indices_in_grey_with_a_palette_and_in_16_bits(tmp_path):
    grey = Image.fromarray(VALUES)
    palette = Image.fromarray(VALUES, "P")
    palette.putpalette(np.random.default_rng(0).integers(256, size=768).astype(np.uint8).tobytes())
    wide = Image.fromarray(VALUES.astype(np.uint16))
    for image in (grey, palette, wide):
        found = read_mask(saved(tmp_path, image), INDEX, (3, 2))
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, VALUES)


def test_ade20k_counts_from_one_and_ignores_zero(tmp_path):
    ade = ClassList(("sky", "tree", "road"), {}, zero_is_ignored=True)
    values = np.array([[0, 1, 2], [3, 1, 255]], dtype=np.uint8)
    found = read_mask(saved(tmp_path, Image.fromarray(values)), ade, (3, 2))
    np.testing.assert_array_equal(found, [[IGNORE, 0, 1], [2, 0, IGNORE]])


def test_colours_by_the_class_list(tmp_path):
    classes = ClassList.read(listing(tmp_path, "sky 70 130 180\n\n# a note\ntall tree 0 100 0\nvoid 0 0 0\n"))
    assert classes.names == ("sky", "tall tree")
    pixels = np.array([[[70, 130, 180], [0, 100, 0]], [[0, 0, 0], [0, 100, 0]]], dtype=np.uint8)
    expected = [[0, 1], [IGNORE, 1]]
    for image in (Image.fromarray(pixels), Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE)):
        np.testing.assert_array_equal(read_mask(saved(tmp_path, image), classes, (2, 2)), expected)
    pixels[1, 0] = (9, 8, 7)
    with pytest.raises(BadImage, match=r"mask.png: the colour \(9, 8, 7\) at column 0, row 1 belongs to no class"):
        read_mask(saved(tmp_path, Image.fromarray(pixels)), classes, (2, 2))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(VALUES[:1]), "the mask has 3×1 pixels, its image 3×2"),
        (
            Image.fromarray(np.array([[0, 1, 2], [2, 7, 0]], np.uint8)),
            r"value 7 at column 1, row 1 is beyond.*3 classes",
        ),
        (Image.fromarray(np.array([[0, 1, 2], [2, 7, 900]], np.uint16)), "value 7 at column 1"),
        (Image.fromarray(VALUES).convert("RGB"), "an RGB mask where class indices are expected"),
        (Image.fromarray(VALUES).convert("RGBA"), "an RGBA mask where class indices are expected"),
        (Image.fromarray(np.full((2, 3), 255, np.uint8)), "every pixel of the mask is ignored"),
    ],
)
def test_a_mask_that_cannot_be_is_named_with_the_reason(tmp_path, image, reason):
    with pytest.raises(BadImage, match=reason) as error:
        read_mask(saved(tmp_path, image), INDEX, (3, 2))
    assert error.value.name == str(tmp_path / "mask.png")


def test_broken_lossy_and_missing_files(tmp_path):
    with pytest.raises(BadImage, match="JPEG mask"):
        read_mask(saved(tmp_path, Image.new("L", (3, 2)), "mask.jpg"), INDEX, (3, 2))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(BadImage, match=r"broken.png"):
        read_mask(tmp_path / "broken.png", INDEX, (3, 2))
    with pytest.raises(BadImage, match="no such file"):
        read_mask(tmp_path / "nowhere.png", INDEX, (3, 2))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "0 classes"),
        ("sky\ntree\nsky\n", "the class sky is listed twice"),
        ("sky 1 2 3\ntree 1 2 3\n", r"\(1, 2, 3\) is given to two"),
        ("sky 1 2 3\ntree\n", "some classes have a colour and some have none"),
        ("sky\nignore: 1,2\n", "'ignore: 1,2' is not a value to ignore: write one line for each, void 11"),
        ("sky 65536123\n", "65536123 is not the value of a class in masks, which have at most 16 bits"),
        ("sky 1 2 300\n", "1 2 300 is not a colour"),
        ("\n".join(map(str, range(256))), "256 classes, where 1 to 255"),
    ],
)
def test_a_class_list_that_cannot_be(tmp_path, text, complaint):
    with pytest.raises(RMTError, match=complaint):
        ClassList.read(listing(tmp_path, text))


def test_ade20k_s_own_list(tmp_path):
    text = "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.15\t1\t1\t1\twall\n2\t0.1\t1\t1\t1\tbuilding, edifice\n"
    text += "3\t0.1\t1\t1\t0\tscreen, silver screen\n4\t0.1\t1\t1\t0\tscreen, CRT screen\n"
    classes = ClassList.read(listing(tmp_path, text))
    assert classes.names == ("wall", "building", "screen", "screen (2)")
    assert classes.zero_is_ignored


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("sky\ntree\nvoid 2\n", ("sky", "tree"), [0, 1]),
        ("sky\nvoid 1\ntree\n", ("sky", "tree"), [0, 2]),
        ("ignore: 0\nsky\ntree\n", ("sky", "tree"), [1, 2]),
        ("sky\ntree 5\n", ("sky", "tree"), [0, 5]),
        ("sky: 3\ntree = 0\nroad\n", ("sky", "tree", "road"), [3, 0, 1]),
        ("background\nobject 200\nvoid 1\nedge\n", ("background", "object", "edge"), [0, 200, 2]),
        ("class 1\nclass 2\n", ("class 1", "class 2"), [0, 1]),  # the numbers tell them apart: names
        ("bus\nroute 66\nroute\n", ("bus", "route 66", "route"), [0, 1, 2]),
    ],
)
def test_a_line_of_the_class_list_names_a_value_that_is_ignored(tmp_path, text, names, values):
    classes = ClassList.read(listing(tmp_path, text))
    assert (classes.names, classes.values) == (names, values)
    pixels = np.array([[*values, 255, *classes.void]], dtype=np.uint8)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels.astype(np.uint16))):
        found = read_mask(saved(tmp_path, image), classes, (pixels.shape[1], 1))
        assert found.tolist() == [[*range(len(names)), *[IGNORE] * (1 + len(classes.void))]]


def test_an_unknown_value_comes_with_the_line_that_ignores_it(tmp_path):
    with pytest.raises(BadImage, match=r"value 7 at column 0, row 0 .*\(0…2\); to ignore it, .*: void 7"):
        read_mask(saved(tmp_path, Image.new("L", (2, 2), 7)), INDEX, (2, 2))


def test_a_class_dictionary_is_a_class_list(tmp_path):
    path = tmp_path / "class_dict.csv"
    path.write_text("name,r,g,b\nSky,70,130,180\nTall tree,0,100,0\nVoid,0,0,0\n")
    classes = ClassList.read(path)
    assert classes.names == ("Sky", "Tall tree") and classes.colours[0, 0, 0] == IGNORE
