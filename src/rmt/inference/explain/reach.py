"""How far the heads of a trained network look, beside what the decay alone would give and what no preference would."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from rmt.inference.explain.attention import attention_form, mean_distances
from rmt.model import RMT
from rmt.model.attention_maps import attention_inputs, half_distances, query_weights

MAX_IMAGES = 16
"""Images that `measure_reach` is given by the commands and reports."""
_QUERIES = 6  # along each side of the grid


@dataclass(frozen=True)
class StageReach:
    """Mean Manhattan distances of a stage's heads, in tokens, over images and an even grid of queries.

    Attributes:
        stage: counted from 1.
        form: see `attention_form`.
        grid: (h, w) of the last image, in tokens.
        half_distance: (n,), where the decay of each head is ½; empty without a Manhattan decay.
        attended: (blocks, n), weighted by the attention of each block.
        decay_alone: (n,), if all queries and keys were 0, so that only the decay decides.
        uniform: of all tokens alike.
    """

    stage: int
    form: str
    grid: tuple[int, int]
    half_distance: np.ndarray
    attended: np.ndarray
    decay_alone: np.ndarray
    uniform: float

    def text(self) -> str:
        """One line."""
        mean, alone = self.attended.mean(), self.decay_alone.mean()
        tokens = f"stage {self.stage}, {self.grid[1]}×{self.grid[0]} tokens"
        decay = f"{alone:.1f} by the decay alone, " if len(self.half_distance) else ""
        return (
            f"{tokens}: heads attend {mean:.1f} tokens away on average; {decay}{self.uniform:.1f} to all tokens alike"
        )

    def values(self) -> dict[str, Any]:
        """The distances as JSON values; those of the blocks are averaged."""
        return {
            "stage": self.stage,
            "grid": list(self.grid),
            "half_distance": _rounded(self.half_distance),
            "attended": _rounded(self.attended.mean(0)),
            "decay_alone": _rounded(self.decay_alone),
            "uniform": round(self.uniform, 2),
        }


@torch.no_grad()
def measure_reach(network: RMT, images: Iterable[Tensor]) -> list[StageReach]:
    """Measures the stages of a network on images (1, 3, H, W) as the backbone takes them, at least one."""
    attended: dict[tuple[int, int], list[np.ndarray]] = {}
    alone: dict[int, list[np.ndarray]] = {}
    uniform: dict[int, list[float]] = {}
    for image in images:
        inputs = attention_inputs(network, image)
        for entry in inputs:
            grid = (entry.tokens.shape[1], entry.tokens.shape[2])
            queries = _even_queries(grid)
            weights = query_weights(entry.attention, entry.tokens, queries)
            attended.setdefault((entry.stage, entry.block), []).append(_mean(weights, queries))
            if entry.block == 0:
                position = query_weights(entry.attention, entry.tokens, queries, content=False)
                alone.setdefault(entry.stage, []).append(_mean(position, queries))
                uniform.setdefault(entry.stage, []).append(float(_mean(torch.ones_like(weights), queries).mean()))
    stages = []
    for entry in (entry for entry in inputs if entry.block == 0):
        blocks = [np.mean(values, axis=0) for (stage, _), values in attended.items() if stage == entry.stage]
        stages.append(
            StageReach(
                stage=entry.stage + 1,
                form=attention_form(entry),
                grid=(entry.tokens.shape[1], entry.tokens.shape[2]),
                half_distance=np.array(half_distances(entry.attention)),
                attended=np.stack(blocks),
                decay_alone=np.mean(alone[entry.stage], axis=0),
                uniform=float(np.mean(uniform[entry.stage])),
            )
        )
    return stages


def plot_reach(axes: Iterable[Any], stages: list[StageReach]) -> None:
    """Draws each stage on one of the matplotlib axes: attended distance over the distance where the decay is ½.

    The heads of a stage without decay are numbered instead.
    """
    for ax, stage in zip(axes, stages, strict=True):
        heads = np.arange(1, stage.attended.shape[1] + 1)
        x = stage.half_distance if len(stage.half_distance) else heads
        mean = stage.attended.mean(0)
        ax.plot([x.min(), x.max()], [stage.uniform] * 2, ":", color="#6b7785", lw=1.2)
        ax.text(x.max(), stage.uniform, "all tokens alike", fontsize=8, color="#6b7785", ha="right", va="bottom")
        if len(stage.half_distance):
            ax.plot(x, stage.decay_alone, "-", color="#2563eb", lw=1.6, label="decay alone")
            ax.set_xscale("log")
            ax.set_xticks(x[:: max(1, len(x) // 4)], [f"{value:.3g}" for value in x[:: max(1, len(x) // 4)]])
            ax.minorticks_off()
        if len(stage.attended) > 1:
            ax.vlines(x, stage.attended.min(0), stage.attended.max(0), color="#d97706", lw=1.2, alpha=0.5)
        ax.plot(x, mean, "o", color="#d97706", ms=5.5, label="trained, mean of the blocks")
        ax.set_ylim(0, 1.25 * max(stage.uniform, stage.attended.max(), 0.1))
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color("#e4e7eb")
        ax.grid(color="#e4e7eb", lw=0.8)
        ax.set_axisbelow(True)
        ax.tick_params(colors="#6b7785", labelsize=8.5, length=0)
        title = f"stage {stage.stage}: {stage.grid[1]}×{stage.grid[0]} tokens, {stage.form}"
        ax.set_title(title, loc="left", fontsize=9.5, color="#1f2933")
        label = (
            "distance at which the decay of the head is ½, tokens" if len(stage.half_distance) else "head (no decay)"
        )
        ax.set_xlabel(label, fontsize=8.5, color="#6b7785")
        if stage.stage == 1:
            ax.set_ylabel("mean attended distance, tokens", fontsize=8.5, color="#6b7785")
            ax.legend(frameon=False, fontsize=8.5, loc="lower right", labelcolor="#1f2933")


def draw_reach(stages: list[StageReach], title: str) -> Figure:
    """A figure with a panel for each stage, see `plot_reach`."""
    figure = Figure(figsize=(3.9 * len(stages) + 0.4, 4.0), facecolor="white", layout="constrained")
    figure.suptitle(f"How far the heads look: {title}", x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    plot_reach(figure.subplots(1, len(stages), squeeze=False)[0], stages)
    return figure


def _even_queries(grid: tuple[int, int]) -> list[tuple[int, int]]:
    """The middles of up to `_QUERIES` equal parts of each side."""
    rows, columns = (
        sorted({int((place + 0.5) * side / min(side, _QUERIES)) for place in range(min(side, _QUERIES))})
        for side in grid
    )
    return [(row, column) for row in rows for column in columns]


def _mean(weights: Tensor, queries: list[tuple[int, int]]) -> np.ndarray:
    return mean_distances(weights, queries).mean(0).float().cpu().numpy()


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 2) for value in values]
