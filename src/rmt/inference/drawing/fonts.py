"""The font of all drawings, text that fits into a width, and the text of matplotlib's."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from PIL import ImageFont

from rmt.terminal import printable


@cache
def load_font(size: float) -> Any:
    """matplotlib's DejaVu Sans, which has the letters of most alphabets; Pillow's own lacks even umlauts."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return ImageFont.load_default(size)
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size) if path.is_file() else ImageFont.load_default(size)


@contextmanager
def plain_text() -> Iterator[None]:
    """Context manager for drawing: `$` begins no formula, and a letter without a font gives no warning."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def fitted(text: str, font: Any, width: float) -> str:
    """The text, printable and on one line, with an ellipsis where it would be wider than so many pixels."""
    text = printable(" ".join(text.split()))
    if font.getlength(text[:1000]) <= width and len(text) <= 1000:
        return text
    low, high = 0, min(len(text), 1000)  # letters that fit; one more than that does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if font.getlength(text[:middle] + "…") <= width else (low, middle)
    return text[:low].rstrip() + "…"
