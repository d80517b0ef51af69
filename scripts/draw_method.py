"""Draw the figures of docs/method.md and of the front page, each by the functions that the network calls.

    python scripts/draw_method.py [--output docs/images]

The photograph is matplotlib's sample `grace_hopper.jpg` (U.S. Navy, public domain).
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from draw_attention import GRID, STRIDE, draw_weights
from matplotlib.cbook import get_sample_data
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageOps

from rmt.model import create_model
from rmt.model.attention.retention import causal_decay
from rmt.model.cost import describe
from rmt.ops.masa import (
    decay_rates,
    log_decay,
    log_decay_rates,
    manhattan_log_decay,
    rotary_phases,
    spatial_prior,
)

RANGE = (2.0, 6.0)  # (a, b) of the first stage of RMT-S, which has four heads
HEADS = 4
QUERY = (10, 15)  # row and column


def decay_along(length: int, heads: int = HEADS) -> np.ndarray:
    """γ^|Δ| between the positions of one axis, for each head: (heads, length, length)."""
    return log_decay(length, log_decay_rates(heads, RANGE, torch.float64, "cpu")).exp().numpy()


def draw_decay(photo: Image.Image, output: Path) -> None:
    """For each head: the decay along the row and the column of a query, and their product over the grid."""
    photo = ImageOps.fit(photo, (GRID * STRIDE,) * 2, Image.Resampling.BICUBIC, centering=(0.5, 0.1))
    along, rates = decay_along(GRID), decay_rates(HEADS, RANGE)
    figure, axes = plt.subplots(2, HEADS, figsize=(12, 6.4))
    for head in range(HEADS):
        by_row, by_column = along[head, QUERY[0]], along[head, QUERY[1]]  # (GRID,) each
        cross = np.zeros((GRID, GRID))
        cross[QUERY[0], :], cross[:, QUERY[1]] = by_column, by_row
        draw_weights(axes[0, head], photo, cross, QUERY)
        draw_weights(axes[1, head], photo, np.outer(by_row, by_column), QUERY)
        axes[0, head].set_title(f"head {head + 1}: γ = {rates[head]:.3g}", fontsize=12)
    axes[0, 0].set_ylabel("along the row and the column", fontsize=11)
    axes[1, 0].set_ylabel("row × column", fontsize=11)
    figure.tight_layout()
    save(figure, output)


def draw_matrices(output: Path) -> None:
    """The decay matrices of one dimension, causal and both ways, and of a grid of 6 × 6 tokens."""
    log_gamma = log_decay_rates(1, (2.0, 2.0), torch.float64, "cpu")
    prior = spatial_prior(6, 6, 1, 4, (2.0, 2.0), torch.zeros((), dtype=torch.float64))
    matrices = {
        "one dimension, causal:\nγ^(n−m) for n ≥ m": causal_decay(16, log_gamma)[0],
        "one dimension, both ways:\nγ^|n−m|": log_decay(16, log_gamma)[0].exp(),
        "a grid of 6 × 6, row by row:\nγ^(|Δx| + |Δy|)": manhattan_log_decay(prior)[0].exp(),
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 4), layout="constrained")
    for ax, (title, matrix) in zip(axes, matrices.items(), strict=True):
        image = ax.imshow(matrix.numpy(), cmap="inferno", vmin=0, vmax=1)
        ax.set(xlabel="key m", ylabel="query n")
        ax.locator_params(integer=True, nbins=6)
        ax.set_title(title, fontsize=11)
    figure.colorbar(image, ax=axes, label="decay, γ = 0.75")
    save(figure, output)


def draw_phases(output: Path) -> None:
    """The cosine of one channel pair's phase over two grids: by flat position it depends on the width."""
    figure, axes = plt.subplots(1, 4, figsize=(12, 3), layout="constrained")
    for ax, (kind, width, pair) in zip(
        axes, [("flat", 14, 4), ("flat", 20, 4), ("axial", 14, 1), ("axial", 20, 1)], strict=True
    ):
        phases = rotary_phases(14, width, 32, torch.float64, "cpu", kind)[:, :, 0, pair]
        image = ax.imshow(phases.cos().numpy(), cmap="RdBu", vmin=-1, vmax=1)
        ax.set_title(f"{kind}, 14 × {width} tokens", fontsize=11)
        ax.set(xlabel="x", ylabel="y")
    figure.colorbar(image, ax=axes, label="cosine of the phase")
    save(figure, output)


def draw_network(output: Path) -> None:
    """RMT-S from the image to the logits, with the sizes that the network itself reports."""
    network = create_model("rmt_small", device="meta")
    stages = describe(network, 224, 224)["stages"]
    boxes = [("stem", "4 convolutions\nstride 4", "#5c677d")]
    for number, stage in enumerate(stages, 1):
        way = "rows, then columns" if stage["decomposed"] else "all pairs"
        text = f"{stage['blocks']} blocks\n{stage['channels']} channels\n{stage['heads']} heads\n{way}"
        boxes.append((f"stage {number}", text, "#b5533c" if stage["decomposed"] else "#3d405b"))
    boxes.append(("head", "linear, BN, SiLU\nmean, linear", "#5c677d"))
    under = ["image\n224 × 224 × 3"] + [f"{s['grid'][0]} × {s['grid'][1]} tokens\nof {s['stride']} px" for s in stages]
    figure, ax = plt.subplots(figsize=(12, 3))
    for i, (title, text, colour) in enumerate(boxes):
        patch = FancyBboxPatch((2 * i, 0), 1.5, 1.6, boxstyle="round,pad=0.08", color=colour)
        ax.add_patch(patch)
        ax.text(2 * i + 0.75, 1.4, title, ha="center", va="center", color="white", fontsize=12, weight="bold")
        ax.text(2 * i + 0.75, 0.62, text, ha="center", va="center", color="white", fontsize=9)
        if i:
            ax.annotate("", (2 * i - 0.12, 0.8), (2 * i - 0.38, 0.8), arrowprops=dict(arrowstyle="-|>", color="black"))
    for i, text in enumerate([*under, "logits"]):
        ax.text(2 * i + 0.75, -0.45, text, ha="center", va="center", fontsize=9)
    ax.set(xlim=(-0.3, 2 * len(boxes) - 0.2), ylim=(-0.8, 1.8))
    ax.axis("off")
    figure.tight_layout()
    save(figure, output)


def save(figure: Any, output: Path) -> None:
    figure.savefig(output, dpi=80)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    output = parser.parse_args().output
    with get_sample_data("grace_hopper.jpg") as file:
        photo = Image.open(file).convert("RGB")
    draw_decay(photo, output / "decay.png")
    draw_matrices(output / "decay-matrices.png")
    draw_phases(output / "phases.png")
    draw_network(output / "network.png")


if __name__ == "__main__":
    main()
