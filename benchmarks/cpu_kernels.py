"""Times of the parts of RMT-S on one CPU core: `python benchmarks/cpu_kernels.py [--output FILE.json]`.

Each part is timed as PyTorch's operators, as our kernels, and, where one kernel does the work of two, as two kernels;
forward alone, and with all gradients. The ways take turns, and the result has their medians. In bfloat16 the parameters
are in bfloat16, too.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from rmt.atomic import write_text
from rmt.benchmark.machine import describe
from rmt.ops import (
    LayerNorm,
    MaSAConfig,
    add_layer_norm,
    depthwise_conv,
    layer_norm,
    manhattan_attention,
    spatial_prior,
    use_backend,
)

IMAGES = 4
STAGES = ((56, 64, 4, 256), (28, 128, 4, 512), (14, 256, 8, 768))  # side, channels, heads, channels of the FFN
ROUNDS, SECONDS = 7, 0.1
Part = tuple[str, dict[str, Callable[..., Any]], list[Tensor], list[Tensor]]  # name, ways, inputs, parameters


def parts(dtype: torch.dtype) -> Iterator[Part]:
    """The parts of a block of each stage."""
    torch.manual_seed(0)
    for side, channels, heads, wide in STAGES:
        size = f"{side}×{side}"
        grid = (IMAGES, side, side)
        q, k, v = (torch.randn(*grid, heads, channels // heads).to(dtype) for _ in range(3))
        config = MaSAConfig(True, "released", (2.0, 6.0), scale=(channels // heads) ** -0.5)
        prior = spatial_prior(side, side, heads, channels // heads, config.decay_range, q)

        def attention(q: Tensor, k: Tensor, v: Tensor, prior: Any = prior, config: Any = config) -> Tensor:
            return manhattan_attention(q, k, v, prior, config)

        yield f"attention, {size}, {heads} heads of {channels // heads}", {"kernels": attention}, [q, k, v], []

        x, y, h = (torch.randn(*grid, width).to(dtype) for width in (channels, channels, wide))
        lce = nn.Conv2d(channels, channels, 5, padding=2, groups=channels).to(dtype)
        ffn = nn.Conv2d(wide, wide, 3, padding=1, groups=wide).to(dtype)
        norm = LayerNorm(channels, eps=1e-6).to(dtype)

        def local(x: Tensor, conv: nn.Conv2d = lce) -> Tensor:
            return depthwise_conv(x, conv, residual=True)

        def fused(h: Tensor, conv: nn.Conv2d = ffn) -> Tensor:
            return depthwise_conv(h, conv, gelu=True, residual=True)

        def separate(h: Tensor, conv: nn.Conv2d = ffn) -> Tensor:
            return depthwise_conv(nn.functional.gelu(h), conv, residual=True)

        def added(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            x = x + y
            return x, layer_norm(x)

        yield f"5×5 depthwise, {size}×{channels}", {"kernels": local}, [x], list(lce.parameters())
        yield f"GELU and 3×3 depthwise, {size}×{wide}", {"kernels": fused, "two": separate}, [h], list(ffn.parameters())
        yield f"LayerNorm, {size}×{channels}", {"kernels": norm}, [x], list(norm.parameters())
        yield f"addition and LayerNorm, {size}×{channels}", {"kernels": add_layer_norm, "two": added}, [x, y], []


def measure(part: Part, gradients: bool) -> dict[str, Any]:
    name, ways, inputs, parameters = part
    leaves = [tensor.detach().requires_grad_(gradients) for tensor in inputs]

    def run(way: Callable[..., Any]) -> None:
        with torch.set_grad_enabled(gradients):
            out = way(*leaves)
            if gradients:
                torch.autograd.grad(out, [*leaves, *parameters], torch.ones_like(out))

    calls = {way: (run, function) for way, function in ways.items()}
    calls["plain"] = (use_backend("plain")(run), ways["kernels"])
    rounds: dict[str, list[float]] = {way: [] for way in calls}
    for number in range(ROUNDS + 1):  # the first one warms up
        for way, (call, function) in calls.items():
            began, times = time.perf_counter(), 0
            while time.perf_counter() - began < SECONDS or not times:
                call(function)
                times += 1
            if number:
                rounds[way].append((time.perf_counter() - began) / times)
    seconds = {way: median(found) for way, found in rounds.items()}
    return {"part": name, "gradients": gradients, "seconds": seconds, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        for part in parts(dtype):
            for gradients in (False, True):
                if gradients and part[0].startswith("addition"):  # one pass in inference alone
                    continue
                found = {"dtype": str(dtype).removeprefix("torch."), **measure(part, gradients)}
                results.append(found)
                shown = ", ".join(f"{way} {1e3 * seconds:.2f} ms" for way, seconds in found["seconds"].items())
                print(f"{found['dtype']}, {found['part']}{', gradients too' if gradients else ''}: {shown}", flush=True)
    if output:
        found = {"images": IMAGES, "started": time.strftime("%Y-%m-%d %H:%M"), "machine": describe("cpu")}
        write_text(output, json.dumps(found | {"results": results}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
