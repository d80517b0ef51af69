"""Draw docs/images/attention.png: what one query of a photograph attends to, by kind of attention (the paper's Fig. 2).

    python scripts/draw_attention.py

The photograph is matplotlib's sample `grace_hopper.jpg` (U.S. Navy, public domain). Queries and keys are those of the
first block of `rmt_micro` with the weights in the package, the same for every attention. The upper row has queries and
keys of 0, so that it shows the receptive field and the decay alone.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image, ImageOps

from rmt.data.transforms import eval_transform
from rmt.model import ManhattanSelfAttention, create_model
from rmt.model.attention import NeighborhoodAttention, WindowAttention
from rmt.model.attention_maps import attention_inputs, query_weights

GRID = 28  # tokens a side; windows of 7×7 divide it
STRIDE = 4
ATTENTIONS: dict[str, tuple[type[ManhattanSelfAttention], dict[str, Any]]] = {
    "plain": (ManhattanSelfAttention, dict(decay="none", decomposed=False)),
    "window, 7×7": (WindowAttention, {}),
    "neighbourhood, 7×7": (NeighborhoodAttention, {}),
    "Manhattan, all pairs": (ManhattanSelfAttention, dict(decomposed=False)),
    "Manhattan, rows and columns": (ManhattanSelfAttention, dict(decomposed=True)),
}


def like(trained: ManhattanSelfAttention, kind: type[ManhattanSelfAttention], **options: Any) -> ManhattanSelfAttention:
    """An attention of another kind with the weights of a trained one."""
    dim = trained.num_heads * trained.head_dim
    attention = kind(dim, trained.num_heads, **dict(decay_range=trained.decay_range, phases=trained.phases) | options)
    attention.load_state_dict(trained.state_dict())
    return attention


def draw(photo: Image.Image, query: tuple[int, int], output: Path) -> None:
    """One column per attention: weights by position alone, and those of the photograph, averaged over the heads."""
    network = create_model("rmt_micro", pretrained=True).eval()
    side = GRID * STRIDE
    photo = ImageOps.fit(photo, (side, side), Image.Resampling.BICUBIC, centering=(0.5, 0.1))
    cfg = network.pretrained_cfg
    transform = eval_transform(size=[side, side], mean=cfg["mean"], std=cfg["std"], crop_pct=1.0)
    _, _, trained, tokens = attention_inputs(network, transform(photo)[None])[0]
    figure, rows = plt.subplots(2, len(ATTENTIONS), figsize=(13, 5.6))
    for column, (name, (kind, options)) in enumerate(ATTENTIONS.items()):
        attention = like(trained, kind, **options)
        for row, content in enumerate((False, True)):
            weights = query_weights(attention, tokens, [query], content=content)[0].mean(0).numpy()
            draw_weights(rows[row, column], photo, weights, query)
            rows[row, column].set_xlabel(f"largest weight {weights.max():.3f}", fontsize=9)
        rows[0, column].set_title(name, fontsize=11)
    rows[0, 0].set_ylabel("by position alone", fontsize=11)
    rows[1, 0].set_ylabel("on this photograph", fontsize=11)
    figure.tight_layout()
    figure.savefig(output, dpi=80)
    plt.close(figure)


def draw_weights(axes: Any, photo: Image.Image, weights: np.ndarray, query: tuple[int, int]) -> None:
    """The photograph in grey, over it the weights (h, w) divided by the largest one, opaque by their square root."""
    shown = np.sqrt(weights / weights.max())
    colours = plt.get_cmap("inferno")(shown)
    colours[..., 3] = 0.85 * shown
    axes.imshow(photo.convert("L"), cmap="gray", extent=(0, GRID, GRID, 0), vmin=-60, vmax=255)
    axes.imshow(colours, extent=(0, GRID, GRID, 0), interpolation="nearest")
    axes.plot(query[1] + 0.5, query[0] + 0.5, marker="s", markersize=6, mfc="none", mec="cyan", mew=1.5)
    axes.set(xticks=[], yticks=[])


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("--query", type=int, nargs=2, default=(10, 15), help=f"row and column, 0 to {GRID - 1}")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs/images/attention.png")
    args = parser.parse_args()
    with get_sample_data("grace_hopper.jpg") as file:
        photo = Image.open(file).convert("RGB")
    draw(photo, tuple(args.query), args.output)


if __name__ == "__main__":
    main()
