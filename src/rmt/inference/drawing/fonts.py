"""The font of all drawings, and the text of matplotlib's."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from PIL import ImageFont


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
