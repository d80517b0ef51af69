"""Labels may be in any language."""

from rmt.inference.drawing.fonts import load_font


def test_letters_of_other_alphabets_are_not_boxes():
    font = load_font(20)
    missing = bytes(font.getmask("\U0010ffff"))
    for letter in "öñçčЖΩ":
        assert bytes(font.getmask(letter)) != missing
