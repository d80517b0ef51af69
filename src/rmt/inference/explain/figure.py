"""One page for one explanation: what was decided, which parts count, and what each stage looks at from one point."""

from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from rmt.inference.explain.attention import StageView
from rmt.inference.explain.explanation import Explanation
from rmt.terminal import short

INK, MUTED, GRID, POINT, HALF = "#1f2933", "#6b7785", "#e4e7eb", "#00e5ff", "#ffffff"
_WIDTH = 15.0  # inches, as all lengths below
_PANEL, _STAGE_PANEL = 3.5, 2.0  # widths of a panel of the first row, and of the rows of the stages
_SHOWN_SIDE = 640  # pixels of the photo behind a map
_NOTE = (
    "Brighter: attended to more. Dashed: the distance at which the decay built into the head halves a weight. "
    "Shown are the heads with the shortest, a middle and the longest such distance; the chart has all."
)


def draw_explanation(found: Explanation, name: str, network: str) -> Figure:
    """The page.

    Args:
        found: the explanation.
        name: of the image.
        network: the title's second line begins with it, such as the checkpoint.
    """
    left, top, right, bottom = found.view
    tall = max((bottom - top) / (right - left), found.photo.height / found.photo.width if found.photo.width else 1)
    first = min(max(_PANEL * tall, 1.4), 5.0)
    row = min(max(_STAGE_PANEL * (bottom - top) / (right - left), 1.4), 3.0)
    height = 1.3 + first + 1.15 + (row + 0.62) * len(found.stages)
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")

    def y(inches: float) -> float:
        """The place so far below the upper edge, as a fraction of the height."""
        return 1 - inches / height

    figure.text(0.015, y(0.32), short(found.decision, 90), fontsize=17, fontweight="bold", color=INK, va="center")
    facts = f"{short(name, 60)} · {network} · the network sees {found.size[1]}×{found.size[0]} pixels"
    figure.text(0.015, y(0.7), facts, fontsize=10, color=MUTED, va="center")
    photo = _view(found.photo, found)
    grid = figure.add_gridspec(1, 4, left=0.015, right=0.985, top=y(1.2), bottom=y(1.2 + first), wspace=0.06)
    _decision(figure.add_subplot(grid[0]), found)
    _evidence([figure.add_subplot(grid[i]) for i in (1, 2, 3)], found, photo)
    begin = 1.3 + first + 0.5
    title = "What the token at the cross looks at, stage by stage"
    figure.text(0.015, y(begin), title, fontsize=13, fontweight="bold", color=INK)
    figure.text(0.015, y(begin + 0.25), _NOTE, fontsize=9.5, color=MUTED)
    for number, view in enumerate(found.stages):
        upper = begin + 0.62 + number * (row + 0.62)
        columns = figure.add_gridspec(
            1, 6, left=0.1, right=0.985, top=y(upper), bottom=y(upper + row), wspace=0.08,
            width_ratios=[1, 1, 1, 1, 1, 1.25],
        )  # fmt: skip
        for place, (text, size) in enumerate(_stage_text(found, view)):
            bold = "bold" if place == 0 else "normal"
            colour = INK if place == 0 else MUTED
            figure.text(0.015, y(upper + 0.23 * place), text, fontsize=size, fontweight=bold, color=colour, va="top")
        _stage(figure, columns, found, view, photo)
    return figure


def _stage_text(found: Explanation, view: StageView) -> list[tuple[str, float]]:
    """Lines of text beside a stage, with their font sizes."""
    size = view.stride * found.scale
    lines = [
        f"{view.grid[1]}×{view.grid[0]} tokens",
        f"of {size:.0f}×{size:.0f} pixels",
        f"{len(view.attention)} heads",
    ]
    return [(f"Stage {view.stage}", 12), *((line, 9) for line in (*lines, *view.form.split(", ")))]


def _decision(ax: Axes, found: Explanation) -> None:
    ax.imshow(np.asarray(_thumbnail(found.drawn)), extent=(0, found.photo.width, found.photo.height, 0))
    left, top, right, bottom = found.view
    if (left, top, right, bottom) != (0, 0, found.photo.width, found.photo.height):
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec="white", lw=1.6, ls=":"))
    _cross(ax, *found.at)
    _frame(ax)
    note = "dotted: what the network is shown" if found.view != (0, 0, found.photo.width, found.photo.height) else ""
    _label(ax, "The image", note or "the cross: the point looked from")


def _evidence(axes: list[Axes], found: Explanation, photo: Image.Image) -> None:
    target = f"“{short(found.target, 18)}”"
    regions, pixels, path = axes
    if found.grad_cam is not None and found.integrated_gradients is not None:
        stride = found.stages[found.grad_cam_stage - 1].stride
        _overlay(regions, found, photo, found.grad_cam, stride, smooth=True)
        _label(regions, f"Regions that speak for {target}", f"Grad-CAM, stage {found.grad_cam_stage}")
        _signed(pixels, found, photo)
        _label(pixels, f"Pixels for and against {target}", "integrated gradients: red for, blue against")
    else:
        for ax in (regions, pixels):
            ax.set_axis_off()
        reason = "nothing was found" if not found.target else "not computed"
        regions.text(0.5, 0.5, f"no evidence: {reason}", ha="center", color=MUTED, transform=regions.transAxes)
    _overlay(path, found, photo, found.rollout - found.rollout.min(), found.stages[0].stride, smooth=True)
    of_what = f"“{short(found.target, 18)}”" if found.target and found.draw is not None else "the decision"
    _label(path, f"What {of_what} rests on", "attention rollout over all blocks")


def _stage(figure: Figure, row: Any, found: Explanation, view: StageView, photo: Image.Image) -> None:
    heads = len(view.attention)
    order = np.argsort(view.half_distance if len(view.half_distance) else view.mean_distance, kind="stable")
    chosen = [order[0], order[heads // 2], order[-1]] if heads > 2 else list(order)
    names = ["Narrowest head", "Middle head", "Widest head"] if heads > 2 else ["Narrower head", "Wider head"]
    x, y = _to_input(found)
    for place, (head, name) in enumerate(zip(chosen, names[-len(chosen) :], strict=True)):
        ax = figure.add_subplot(row[place])
        _overlay(ax, found, photo, view.attention[head], view.stride)
        note = ""
        if len(view.half_distance):
            radius = view.half_distance[head] * view.stride
            corners = [(x, y - radius), (x + radius, y), (x, y + radius), (x - radius, y)]
            ax.add_patch(Polygon(corners, fill=False, ec=HALF, lw=1.3, ls="--"))
            note = f"decay ½ at {_pixels(radius * found.scale)}"
        _cross(ax, x, y)
        _label(ax, name, note)
    ax = figure.add_subplot(row[3])
    _overlay(ax, found, photo, view.attention.mean(0), view.stride)
    _cross(ax, x, y)
    _label(ax, "Mean of all heads", "")
    ax = figure.add_subplot(row[4])
    _overlay(ax, found, photo, view.receptive_field, 1, blur=2)
    _cross(ax, x, y)
    _label(ax, "Pixels it depends on", f"half within {_pixels(view.reach * found.scale)}")
    _distances(figure.add_subplot(row[5]), found, view)


def _distances(ax: Axes, found: Explanation, view: StageView) -> None:
    """For each head, narrowest first: the distance where the decay is ½, and the mean distance it attends to."""
    scale = view.stride * found.scale
    heads = len(view.mean_distance)
    order = np.argsort(view.half_distance, kind="stable") if len(view.half_distance) else np.arange(heads)
    box = ax.get_position()
    ax.set_position((box.x0 + 0.035, box.y0 + 0.12 * box.height, box.width - 0.035, 0.82 * box.height))
    places = np.arange(1, heads + 1)
    farthest = max(_farthest(view), 1) * scale  # a grid of one token has no other
    if len(view.half_distance):
        shown = np.minimum(view.half_distance[order] * scale, 1.22 * farthest)
        ax.plot(places, shown, "_", color=INK, ms=9, mew=1.6)
    ax.plot(places, view.mean_distance[order] * scale, "o", color="#d97706", ms=5)
    ax.axhline(farthest, color=MUTED, lw=0.8, ls=":")
    ax.set_ylim(0, 1.3 * farthest)
    ax.text(0.52, farthest, "farthest token", fontsize=7.5, color=MUTED, va="bottom")
    ax.set_xlim(0.5, heads + 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(min(heads, 8), integer=True))
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GRID)
    ax.tick_params(colors=MUTED, labelsize=8, length=0)
    ax.grid(axis="y", color=GRID, lw=0.7)
    ax.set_axisbelow(True)
    note = "  – decay is ½" if len(view.half_distance) else ""
    ax.set_xlabel(f"head;  ● attended{note}", fontsize=8.5, color=MUTED, labelpad=2)
    ax.set_title("Pixels from the cross", loc="left", fontsize=10.5, color=INK, pad=4)


def _farthest(view: StageView) -> int:
    """The Manhattan distance of the token that is farthest from the query."""
    return sum(max(place, side - 1 - place) for place, side in zip(view.query, view.grid, strict=True))


def _overlay(
    ax: Axes,
    found: Explanation,
    photo: Image.Image,
    values: np.ndarray,
    stride: int,
    smooth: bool = False,
    blur: int = 0,
) -> None:
    """The view in grey, over it a map of tokens or pixels, divided by its largest value, its root as opacity."""
    height, width = found.size
    ax.imshow(photo.convert("L"), cmap="gray", extent=(0, width, height, 0), vmin=-40, vmax=360)
    if blur:
        values = _blurred(values, blur)
    shown = np.sqrt(values / max(values.max(), 1e-12))
    extent = (0, values.shape[1] * stride, values.shape[0] * stride, 0)
    interpolation = "bilinear" if smooth else "nearest"
    alpha = 0.9 * shown
    ax.imshow(shown, cmap="inferno", vmin=0, vmax=1, alpha=alpha, extent=extent, interpolation=interpolation)
    ax.set(xlim=(0, width), ylim=(height, 0))
    _frame(ax)


def _signed(ax: Axes, found: Explanation, photo: Image.Image) -> None:
    assert found.integrated_gradients is not None
    height, width = found.size
    values = _blurred(found.integrated_gradients, 1)
    values = values / max(np.quantile(np.abs(values), 0.995), 1e-12)
    ax.imshow(photo.convert("L"), cmap="gray", extent=(0, width, height, 0), vmin=-40, vmax=360)
    strength = np.clip(np.abs(values), 0, 1) ** 0.7
    ax.imshow(values, cmap="bwr", vmin=-1, vmax=1, alpha=strength, extent=(0, width, height, 0))
    _frame(ax)


def _blurred(values: np.ndarray, radius: int) -> np.ndarray:
    """The mean of each value and its neighbours up to a distance of `radius` along each axis."""
    for axis in (0, 1):
        padded = np.pad(values, [(radius, radius) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        values = np.lib.stride_tricks.sliding_window_view(padded, 2 * radius + 1, axis=axis).mean(-1)
    return values


def _view(photo: Image.Image, found: Explanation) -> Image.Image:
    """The part of the photo that the network is shown, small."""
    left, top, right, bottom = (round(side) for side in found.view)
    return _thumbnail(photo.crop((left, top, max(right, left + 1), max(bottom, top + 1))))


def _thumbnail(image: Image.Image) -> Image.Image:
    small = image.convert("RGB")
    small.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    return small


def _to_input(found: Explanation) -> tuple[float, float]:
    left, top, right, bottom = found.view
    height, width = found.size
    return (found.at[0] - left) * width / (right - left), (found.at[1] - top) * height / (bottom - top)


def _cross(ax: Axes, x: float, y: float) -> None:
    ax.plot(x, y, "+", color="black", ms=13, mew=3.4, scalex=False, scaley=False)
    ax.plot(x, y, "+", color=POINT, ms=12, mew=1.8, scalex=False, scaley=False)


def _frame(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[], anchor="NW")
    ax.spines[:].set_color(GRID)


def _label(ax: Axes, title: str, note: str) -> None:
    ax.set_title(title, loc="left", fontsize=10.5, color=INK, pad=4)
    if note:
        ax.set_xlabel(note, fontsize=9, color=MUTED, labelpad=3, loc="left")


def _pixels(value: float) -> str:
    return f"{value:.0f} pixels" if value >= 3 else f"{value:.1f} pixels"
