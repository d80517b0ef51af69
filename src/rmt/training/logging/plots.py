"""The plots of `report.png`: each draws plain numbers on matplotlib axes and knows nothing of training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rmt.terminal import short

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
RAW, EMA, TRAIN, GOOD, BAD = "#2563eb", "#d97706", "#9aa5b1", "#15803d", "#b91c1c"

Curve = tuple[Sequence[float], Sequence[float]]  # x, y


def plot_precision_recall(
    ax: Axes, curves: Sequence[tuple[str, float, np.ndarray]], suggested: tuple[float, float, str] | None
) -> None:
    """Precision over recall at IoU 0.5, a line for each class.

    Args:
        curves: (class, its AP50 in percent, precisions in 0…1 at evenly spaced recalls from 0 to 1).
        suggested: recall and precision in percent of all objects at the suggested threshold, and its name.
    """
    style_axes(ax)
    set_title(ax, "Precision and recall", "boxes at IoU 0.5, best weights")
    for name, ap50, precision in curves:
        recall = np.linspace(0, 100, len(precision))
        kept = precision > 0  # beyond the last object that is found it is 0
        ax.plot(recall[kept], 100 * precision[kept], linewidth=1.8, label=f"{short(name, 18)}: AP50 {ap50:.1f}")
    if suggested is not None:
        recall_there, precision_there, text = suggested
        ax.plot(recall_there, precision_there, "o", ms=9, mfc="none", mec=INK, mew=1.6, label=text)
    ax.set(xlim=(0, 101), ylim=(0, 103))
    ax.set_xlabel("recall, %", color=MUTED, fontsize=9)
    ax.set_ylabel("precision, %", color=MUTED, fontsize=9)
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower left")


def set_title(ax: Axes, text: str, note: str = "") -> None:
    """A title at the left edge of the axes, and a note in small print behind it."""
    title = ax.set_title(text, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10)
    if note:
        add_note(title, ax.figure, note)


def add_note(title: Text, figure: Any, note: str) -> None:
    """Small print on a title's line, right behind it."""
    style: Any = dict(fontsize=9, color=MUTED, va="bottom")
    mark = Annotation(note, (1, 0), xycoords=title, xytext=(8, 1), textcoords="offset points", **style)
    mark.set_in_layout(False)
    figure.add_artist(mark)


def title(figure: Any, name: str, facts: str, essentials: str, scores: Sequence[tuple[str, str]], label: str) -> None:
    """A page's head: the recipe's name, what was run and how it was trained on the left; on the right (what, score)
    pairs after a label."""
    style: Any = dict(ha="right", va="center")
    figure.text(0.012, 0.72, name, fontsize=26, fontweight="bold", color=INK, va="center")
    figure.text(0.012, 0.36, facts, fontsize=11, color=MUTED, va="center")
    figure.text(0.012, 0.12, essentials, fontsize=10, color=MUTED, va="center")
    step = 0.14 if len(scores) < 4 else 0.105
    for index, (what, score) in enumerate(reversed(scores)):
        x = 0.985 - step * index
        figure.text(x, 0.72, score, fontsize=22, color=INK, **style)
        figure.text(x, 0.36, what, fontsize=10.5, color=MUTED, **style)
    figure.text(0.985 - step * len(scores), 0.72, label, fontsize=10.5, color=MUTED, **style)


def style_axes(ax: Axes) -> None:
    """A light grid, no box."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GRID)
    ax.grid(color=GRID, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=MUTED, labelsize=9, length=0)


def time_axis(ax: Axes, unit: str) -> None:
    """The axis of epochs or iterations: whole numbers."""
    ax.set_xlabel(unit, color=MUTED, fontsize=9)
    ax.set_xlim(left=0, right=max(1.0, ax.get_xlim()[1]))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))


def plot_loss(
    ax: Axes,
    steps: Curve,
    train: Curve,
    val: Curve,
    ema: Curve,
    note: str = "training loss includes smoothing and augmentation",
    unit: str = "epoch",
) -> None:
    """Loss over epochs: the training loss by step (faint) and epoch, the evaluation's of raw and EMA weights.

    Curves without points are left out; `unit` names the axis of all panels over time.
    """
    style_axes(ax)
    set_title(ax, "Loss", note)
    ax.plot(*steps, color=TRAIN, linewidth=0.8, alpha=0.55)
    ax.plot(*train, color=TRAIN, linewidth=2, label="train")
    if val[0]:
        ax.plot(*val, color=RAW, linewidth=2, marker=_dot(val), label="val, raw")
    if ema[0]:
        ax.plot(*ema, color=EMA, linewidth=2, marker=_dot(ema), label="val, EMA")
    time_axis(ax, unit)
    if shown := [*train[1], *val[1], *ema[1]]:
        ax.set_ylim(0, 1.15 * float(np.quantile(shown, 0.97)))
    ax.legend(frameon=False, fontsize=9, labelcolor=INK)


def plot_accuracy(
    ax: Axes,
    raw: Curve,
    ema: Curve,
    best: tuple[float, float],
    note: str,
    title: str = "Top-1 accuracy, %",
    unit: str = "epoch",
    baseline: float | None = None,
) -> None:
    """A score in percent over epochs; a ring marks the best. `baseline`: that of always predicting one class."""
    style_axes(ax)
    set_title(ax, title, note)
    for curve, color, name in ((raw, RAW, "raw"), (ema, EMA, "EMA")):
        if curve[0]:
            ax.plot(*curve, color=color, linewidth=2, marker=_dot(curve), label=f"{name}: last {curve[1][-1]:.2f}")
    ring: Any = dict(markersize=12, markerfacecolor="none", markeredgecolor=INK, clip_on=False)  # whole at 100 %, too
    ax.plot(*best, "o", **ring, label=f"best: {best[1]:.2f}")
    if baseline is not None:
        ax.axhline(baseline, color=MUTED, linewidth=1, linestyle=":", label=f"always one class: {baseline:.2f}")
    time_axis(ax, unit)
    if values := [*raw[1], *ema[1]]:
        last = [curve[1][-1] for curve in (raw, ema) if curve[0]]  # shown even where they are below the others
        low, high = min(float(np.quantile(values, 0.15)), *last), max(values)
        ax.set_ylim(max(0.0, low - 0.35 * (high - low) - 1), min(100.5, high + 0.15 * (high - low) + 1))
    ax.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower right")


def plot_learning_rate(ax: Axes, rates: Curve, unit: str = "epoch") -> None:
    """Learning rate over epochs."""
    style_axes(ax)
    set_title(ax, "Learning rate")
    ax.plot(*rates, color=INK, linewidth=2)
    ax.set_ylim(bottom=0)
    time_axis(ax, unit)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, index: f"{value:g}"))


def plot_speed(ax: Axes, images_per_s: Curve, unit: str = "epoch") -> None:
    """Images per second in training over epochs."""
    style_axes(ax)
    set_title(ax, "Speed", "images per second")
    ax.plot(*images_per_s, color=GOOD, linewidth=2, marker=_dot(images_per_s))
    ax.set_ylim(0, 1.3 * max(images_per_s[1], default=1))
    time_axis(ax, unit)


def plot_confusion(ax: Axes, confusion: np.ndarray, classes: Sequence[str], note: str = "") -> None:
    """Percent of each true class (row) that was predicted as each class (column), on a linear scale.

    Args:
        confusion: (K, K) counts.
        classes: K names; rows also say how many images there are of each.
        note: which images and weights.
    """
    counts = confusion.sum(1)
    shares = 100 * confusion / counts[:, None].clip(min=1)
    size = len(classes)
    set_title(ax, "Confusion", note)
    shown = ax.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    bar = ax.figure.colorbar(shown, ax=ax, fraction=0.03, pad=0.02, ticks=range(0, 101, 20))
    bar.set_label("% of the images of the true class", color=MUTED, fontsize=9)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=0)
    bar.outline.set_visible(False)
    ax.tick_params(colors=INK, labelsize=9 if size <= 12 else 7, length=0)
    ax.spines[:].set_color(GRID)
    ax.set_ylabel("true class (images)", color=MUTED, fontsize=9)
    ax.set_xlabel("predicted class", color=MUTED, fontsize=9)
    if size > 30:
        ax.set(xticks=[], yticks=[])
        ax.set_xlabel("predicted class\n" + _worst_pairs(shares, classes), color=MUTED, fontsize=9, loc="left")
        return
    names = [short(name, 16) for name in classes]
    ax.set_xticks(range(size), names, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(size), [f"{name} ({count:,})" for name, count in zip(names, counts.tolist(), strict=True)])
    for (row, column), share in np.ndenumerate(shares):
        if size <= 16 and share > 0:
            color = "white" if share > 55 else INK
            text = "<1" if share < 1 else f"{share:.0f}"
            ax.text(column, row, text, ha="center", va="center", fontsize=9, color=color)


def draw_prediction(ax: Axes, image: np.ndarray, truth: str, called: str, probability: float) -> None:
    """One image (H, W, 3) uint8 with what it is called, green when right."""
    color = GOOD if truth == called else BAD
    ax.imshow(image, interpolation="nearest" if min(image.shape[:2]) < 64 else "antialiased")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color=color, linewidth=2)
    ax.set_title(f"{short(called, 14)} {100 * probability:.0f} %", fontsize=9, color=color, pad=4)
    if truth != called:
        ax.set_xlabel(f"is {short(truth, 14)}", fontsize=8.5, color=MUTED, labelpad=3)


def _worst_pairs(shares: np.ndarray, classes: Sequence[str], most: int = 6) -> str:
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None)[:most]
    pairs = [np.unravel_index(index, wrong.shape) for index in order]
    return "\n".join(f"{short(classes[r], 24)} called {short(classes[c], 24)}: {wrong[r, c]:.0f} %" for r, c in pairs)


def _dot(curve: Curve) -> str:
    return "o" if len(curve[0]) < 2 else ""
