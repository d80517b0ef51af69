"""Labels may be in any language."""

import numpy as np
from PIL import Image

from rmt.inference.drawing.boxes import labelled_boxes
from rmt.inference.drawing.fonts import fitted, load_font
from rmt.inference.drawing.masks import with_legend


def test_letters_of_other_alphabets_are_not_boxes():
    font = load_font(20)
    missing = bytes(font.getmask("\U0010ffff"))
    for letter in "öñçčЖΩ":
        assert bytes(font.getmask(letter)) != missing


def test_long_names_end_in_an_ellipsis_inside_the_legend():
    names, photo = ("x" * 200, "W" * 5000, "road"), Image.new("RGB", (480, 640), "black")
    labels = np.zeros((640, 480), np.uint8)
    labels[:200], labels[200:400] = 1, 2
    for name in names:
        shown = fitted(name, load_font(14), 200)
        assert load_font(14).getlength(shown) <= 200
        assert shown == name or (shown.endswith("…") and len(shown) > 8)
    page = np.asarray(with_legend(photo, labels, names))
    text = page[640:].min(axis=(0, 2)) < 200  # columns of the legend that something is drawn in
    assert page.shape[1] == 480 and not text[-20:].any() and text[150:250].any()
    (drawn,) = labelled_boxes(np.ones((1, 4)), np.array([1]), None, names)
    assert drawn.text == "W" * 31 + "…"
