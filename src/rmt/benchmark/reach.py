"""Attention window of each head: `python -m rmt.benchmark.reach rmt_small --image-size 1792 --tolerance 1e-5 1e-3`."""

import argparse
import sys
from typing import Any

from rmt.errors import RMTError
from rmt.model import create_model
from rmt.ops import decay_rates
from rmt.ops.windows import window_radius


def reach_table(model_name: str, image_size: int, tolerances: list[float], spread: float) -> str:
    """Format a table of all heads: γ, and for each tolerance the window in tokens and pixels to each side.

    Args:
        spread: Δ, difference between the largest and the smallest logit of a query; 0 means equal logits.
    """
    model: Any = create_model(model_name, device="meta")
    lines = [f"{model_name} at {image_size}², logits within {spread:g} of each other; tokens (pixels) to each side"]
    lines.append(f"{'stage':>5} {'head':>4} {'γ':>8}" + "".join(f"{t:>16g}" for t in tolerances))
    for i, (stage, info) in enumerate(zip(model.stages, model.feature_info, strict=True)):
        attn, stride = stage.blocks[0].attn, info["reduction"]
        length = -(-image_size // stride)
        for head, gamma in enumerate(decay_rates(attn.num_heads, attn.decay_range)):
            windows = [window_radius(gamma, length, tolerance, spread) for tolerance in tolerances]
            cells = ["all" if tokens >= length - 1 else f"{tokens} ({tokens * stride})" for tokens in windows]
            lines.append(f"{i + 1:>5} {head:>4} {gamma:>8.5f}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines)


def main() -> None:
    """Run one command line."""
    parser = argparse.ArgumentParser(prog="python -m rmt.benchmark.reach", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--image-size", type=int, default=1792)
    parser.add_argument("--tolerance", type=float, nargs="+", default=[1e-5, 1e-3, 1e-2])
    parser.add_argument("--spread", type=float, default=0.0)
    args = parser.parse_args()
    try:
        print(reach_table(args.model, args.image_size, args.tolerance, args.spread))
    except RMTError as error:
        sys.exit(f"rmt.benchmark.reach: {error}")


if __name__ == "__main__":
    main()
