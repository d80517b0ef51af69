"""A sheet of pictures in rows, each with a caption, and a legend of classes below them."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from rmt.inference.drawing.fonts import fitted, load_font
from rmt.inference.drawing.palette import palette

COLUMNS = 4
CELL = 360
"""Width of a picture on the sheet in pixels, and its largest height."""
_CAPTION, _GAP, _TEXT = 44, 12, 14
_INK, _MUTED, _PAPER = (31, 41, 51), (123, 135, 148), (255, 255, 255)
_MOST_ENLARGED = 6
_MOST_CLASSES = 40  # in the legend


def draw_cell(picture: Image.Image, label: str, name: str) -> Image.Image:
    """A picture on white, with a caption of two lines below."""
    factor = min(CELL / picture.width, CELL / picture.height, _MOST_ENLARGED)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    small = max(picture.size) < CELL / 2
    resized = picture.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    cell = Image.new("RGB", (CELL, resized.height + _CAPTION), _PAPER)
    cell.paste(resized, ((CELL - resized.width) // 2, 0))
    draw, font = ImageDraw.Draw(cell), load_font(_TEXT)
    draw.text((2, resized.height + 4), fitted(label, font, CELL - 4), fill=_INK, font=font)
    draw.text((2, resized.height + 23), fitted(name, font, CELL - 4), fill=_MUTED, font=font)
    return cell


def lay_out(cells: Sequence[Image.Image], classes: Sequence[str] = ()) -> Image.Image:
    """The cells of `draw_cell`, at least one, in rows of `COLUMNS`; below them the colours of `classes`."""
    columns = min(COLUMNS, len(cells))
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [max(cell.height for cell in row) for row in rows]
    width = columns * CELL + (columns + 1) * _GAP
    legend = _legend(classes, width)
    page = Image.new("RGB", (width, sum(heights) + (len(rows) + 1) * _GAP + legend.height), _PAPER)
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, cell in enumerate(row):
            page.paste(cell, (_GAP + column * (CELL + _GAP), top))
        top += height + _GAP
    page.paste(legend, (0, top))
    return page


def _legend(names: Sequence[str], width: int) -> Image.Image:
    colours = [tuple(colour) for colour in palette(len(names)).tolist()][:_MOST_CLASSES]
    font, cell, line = load_font(_TEXT), 180, 26
    columns = max(1, (width - 2 * _GAP) // cell)
    height = -(-len(colours) // columns) * line + _GAP if colours else 0
    legend = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(legend)
    for place, (name, colour) in enumerate(zip(names, colours, strict=False)):
        left, top = _GAP + place % columns * cell, place // columns * line
        draw.rounded_rectangle((left, top + 4, left + 22, top + 20), radius=4, fill=colour)
        draw.text((left + 30, top + 3), fitted(name, font, cell - 36), fill=_INK, font=font)
    return legend
