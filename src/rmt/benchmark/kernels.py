"""`python -m rmt.benchmark.kernels`: the Triton kernels on the GPU at hand, checked, and timed against their floors.

Every kernel first runs on fresh random inputs and is compared with float64: ‖found − exact‖ / ‖exact‖. Its floor is the
larger of two times: the bytes it cannot avoid (each input read once, each output written once) over the bandwidth of a
large copy, and its operations over the rate of a large matrix product, both measured in the same run. Times are
medians of CUDA graph replays over inputs that together outgrow the cache. On torch and Triton alone.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rmt.benchmark.machine import describe
from rmt.benchmark.measure import cuda_seconds
from rmt.benchmark.prepare import captured, matrix_product
from rmt.errors import RMTError
from rmt.ops import BACKENDS, LayerNorm, MaSAConfig, SpatialPrior, depthwise_conv, masa, spatial_prior, use_backend

CACHE_BYTES = 200e6  # what the inputs of one replay have to outgrow
DECAY_RANGE = (2.0, 6.0)
Grid = tuple[int, int, int]  # images, height, width


class Problem(NamedTuple):
    """One kernel call: what it is named, computes, moves and takes."""

    name: str
    ours: Callable[..., Any]
    reference: Callable[..., Any]  # plain PyTorch, in any dtype
    inputs: tuple[tuple[int, ...], ...]  # shapes
    bytes: int
    operations: int


def attention(grid: Grid, heads: int, channels: int, dtype: torch.dtype, config: MaSAConfig) -> list[Problem]:
    """All of attention on `grid` (images, height, width)."""
    height, width = grid[1:]

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return BACKENDS["triton"](q, k, v, _prior(q, config), config)

    def plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return masa.manhattan_attention(q, k, v, _prior(q, config), config)

    def backward(q: Tensor, k: Tensor, v: Tensor, dout: Tensor):
        prior = _prior(q, config)
        rest = (prior.cos, prior.sin, prior.log_gamma, config.decomposed, config.half_split, True, config.scale)
        return torch.ops.rmt.triton_attention_backward(dout, q, k, v, *rest)

    name = "rows and columns" if config.decomposed else "all pairs"
    keys = height + width if config.decomposed else height * width
    return _both_ways(name, (*grid, heads, channels), keys, dtype, forward, backward, plainly)


def row_pass(grid: Grid, heads: int, channels: int, dtype: torch.dtype, config: MaSAConfig) -> list[Problem]:
    """One axis pass alone."""

    def call(q: Tensor):
        from rmt.ops.triton.attention_ops import Attention

        prior = _prior(q, config)
        tables = (prior.cos, prior.sin, prior.log_gamma)
        return Attention(q, tables, None, config.half_split, True, config.scale)

    def forward(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return call(q).forward(q, k, v, "rows")[0]

    def backward(q: Tensor, k: Tensor, v: Tensor, dout: Tensor):
        gradients = tuple(torch.empty_like(t) for t in (q, k, v))
        call(q).backward((q, k, v, dout), (v, v), gradients, "rows", add=False)
        return gradients

    def plainly(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        prior = _prior(q, config)
        q, k = masa.rotate_queries_and_keys(q, k, prior, config)
        return masa.attend_along_rows(q, k, v, prior.log_decay_w, config.decay)

    return _both_ways("rows", (*grid, heads, channels), grid[2], dtype, forward, backward, plainly)


def _both_ways(name, shape, keys: int, dtype: torch.dtype, forward, backward, plainly) -> list[Problem]:
    """Forward reads q, k, v and writes one tensor, with 2 products; backward reads four and writes three, with 5."""
    images, height, width, heads, channels = shape
    numbers, size = images * height * width * heads * channels, torch.finfo(dtype).bits // 8
    label = f"{name} of {images}×{height}×{width}, {heads} heads of {channels}"

    def gradients_plainly(q: Tensor, k: Tensor, v: Tensor, dout: Tensor):
        leaves = [t.detach().requires_grad_() for t in (q, k, v)]
        with torch.enable_grad():
            out = plainly(*leaves)
        return torch.autograd.grad(out, leaves, dout)

    return [
        Problem(f"{label}, forward", forward, plainly, (shape,) * 3, 4 * numbers * size, 4 * numbers * keys),
        Problem(
            f"{label}, backward", backward, gradients_plainly, (shape,) * 4, 7 * numbers * size, 10 * numbers * keys
        ),
    ]


def convolution(grid: Grid, channels: int, size: int, dtype: torch.dtype) -> list[Problem]:
    """x + conv(x), and the gradients of the weight and the bias."""
    shape = (*grid, channels)
    numbers, width = int(torch.tensor(shape).prod()), torch.finfo(dtype).bits // 8
    conv = nn.Conv2d(channels, channels, size, padding=size // 2, groups=channels).cuda()

    def forward(x: Tensor) -> Tensor:
        return depthwise_conv(x, conv.to(x.dtype), residual=True)

    def plainly(x: Tensor) -> Tensor:
        with use_backend("plain"):
            return forward(x)

    def gradients(x: Tensor, dout: Tensor):
        return torch.ops.rmt.triton_depthwise_weight_gradient(x, dout, size, False)

    def gradients_plainly(x: Tensor, dout: Tensor):
        like = conv.to(x.dtype).weight.detach()
        mask, pad = [False, True, True], [size // 2] * 2
        x, dout = x.permute(0, 3, 1, 2), dout.permute(0, 3, 1, 2)
        zero = [0, 0]
        found = torch.ops.aten.convolution_backward(
            dout, x, like, [channels], [1, 1], pad, [1, 1], False, zero, channels, mask
        )
        return found[1], found[2]

    label = f"depthwise {size}×{size} of {'×'.join(map(str, shape))}"
    operations = 2 * numbers * size * size
    return [
        Problem(f"{label}, forward", forward, plainly, (shape,), 2 * numbers * width, operations),
        Problem(
            f"{label}, weight gradient", gradients, gradients_plainly, (shape,) * 2, 2 * numbers * width, operations
        ),
    ]


def feed_forward(grid: Grid, channels: int, dtype: torch.dtype) -> list[Problem]:
    """The gradients of h + conv(h), h = GELU(x): one kernel for x, one for the weight and the bias."""
    shape = (*grid, channels)
    numbers, size = int(torch.tensor(shape).prod()), torch.finfo(dtype).bits // 8
    conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels).cuda()

    def gradients(x: Tensor, dout: Tensor):
        x = x.detach().requires_grad_()
        layer = conv.to(x.dtype)
        with torch.enable_grad():
            out = depthwise_conv(x, layer, gelu=True, residual=True)
        return torch.autograd.grad(out, [x, *layer.parameters()], dout)

    def plainly(x: Tensor, dout: Tensor):
        with use_backend("plain"):
            return gradients(x, dout)

    label = f"GELU and depthwise 3×3 of {'×'.join(map(str, shape))}, forward and gradients"
    return [Problem(label, gradients, plainly, (shape,) * 2, 7 * numbers * size, 54 * numbers)]


def layer_norm(grid: Grid, channels: int, dtype: torch.dtype) -> list[Problem]:
    shape = (*grid, channels)
    numbers, size = int(torch.tensor(shape).prod()), torch.finfo(dtype).bits // 8
    norm = LayerNorm(channels, eps=1e-6).cuda()
    nn.init.normal_(norm.weight)

    def forward(x: Tensor) -> Tensor:
        return norm.to(x.dtype)(x)

    def forward_plainly(x: Tensor) -> Tensor:
        with use_backend("plain"):
            return forward(x)

    def both(x: Tensor, dout: Tensor):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            out = norm.to(x.dtype)(x)
        return torch.autograd.grad(out, [x, *norm.parameters()], dout)

    def both_plainly(x: Tensor, dout: Tensor):
        with use_backend("plain"):
            return both(x, dout)

    label = f"LayerNorm of {'×'.join(map(str, shape))}"
    return [
        Problem(f"{label}, forward", forward, forward_plainly, (shape,), 2 * numbers * size, 8 * numbers),
        Problem(f"{label}, forward and gradients", both, both_plainly, (shape,) * 2, 5 * numbers * size, 24 * numbers),
    ]


def problems(dtype: torch.dtype, batch: int) -> Iterator[Problem]:
    """What RMT-S asks for at 224², stage by stage, and attention at 800 × 1333."""

    def config(channels: int, decomposed: bool = True) -> MaSAConfig:
        return MaSAConfig(decomposed, "released", DECAY_RANGE, scale=channels**-0.5)

    for side, heads, channels in ((56, 4, 16), (28, 4, 32), (14, 8, 32)):
        yield from row_pass((batch, side, side), heads, channels, dtype, config(channels))
        yield from attention((batch, side, side), heads, channels, dtype, config(channels))
    yield from attention((batch, 7, 7), 16, 32, dtype, config(32, decomposed=False))
    for height, width, heads, channels in ((200, 334, 4, 16), (100, 167, 4, 32), (50, 84, 8, 32)):
        yield from attention((2, height, width), heads, channels, dtype, config(channels))
    yield from attention((2, 25, 42), 16, 32, dtype, config(32, decomposed=False))
    for side, channels, size in ((56, 64, 5), (56, 256, 3), (28, 128, 5), (28, 512, 3), (14, 256, 5), (14, 768, 3)):
        yield from convolution((batch, side, side), channels, size, dtype)
    for side, channels, ratio in ((56, 64, 4), (28, 128, 4), (14, 256, 3), (7, 512, 3)):
        yield from feed_forward((batch, side, side), ratio * channels, dtype)
        yield from layer_norm((batch, side, side), channels, dtype)


def measure(problem: Problem, dtype: torch.dtype, bandwidth: float, rate: float, seed: int) -> dict[str, Any]:
    """Error and times of one problem."""
    generator = torch.Generator("cuda").manual_seed(seed)

    def draw(images: int | None = None) -> tuple[Tensor, ...]:
        shapes = [(images or shape[0], *shape[1:]) for shape in problem.inputs]
        return tuple(torch.randn(shape, generator=generator, device="cuda").to(dtype) for shape in shapes)

    few = draw(2)
    exact = _tensors(problem.reference(*(t.double() for t in few)))
    found = _tensors(problem.ours(*few))
    again = _tensors(problem.ours(*few))
    error = max(((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True))
    sets = [draw()]
    taken = sum(t.nbytes for t in sets[0])
    sets += [draw() for _ in range(int(min(8, CACHE_BYTES // taken)))]
    floor = max(problem.bytes / bandwidth, problem.operations / rate)
    seconds, plain_seconds = _seconds(problem.ours, sets), _seconds(problem.reference, sets)
    return dict(
        problem=problem.name,
        dtype=str(dtype).removeprefix("torch."),
        error=error,
        repeats=all(torch.equal(a, b) for a, b in zip(found, again, strict=True)),
        floor=floor,
        bound="bytes" if problem.bytes / bandwidth >= problem.operations / rate else "operations",
        seconds=seconds,
        plain_seconds=plain_seconds,
        fraction_of_floor=floor / seconds if seconds else None,
    )


def _seconds(function: Callable[..., Any], sets: list[tuple[Tensor, ...]]) -> float | None:
    """Median seconds of a call, or None where memory does not suffice."""

    def run() -> None:
        with torch.no_grad():
            for inputs in sets:
                function(*inputs)

    try:
        replay = captured(run)
    except torch.OutOfMemoryError:
        return None
    return sorted(cuda_seconds(replay, 1) for _ in range(11))[5] / len(sets)


def _tensors(value: Any) -> list[Tensor]:
    return [value.detach()] if isinstance(value, Tensor) else [t.detach() for t in value]


def _prior(q: Tensor, config: MaSAConfig) -> SpatialPrior:
    """The tables of q's grid; in float64 with the phases of float32, which are what is to be computed."""
    _, height, width, heads, channels = q.shape
    prior = spatial_prior(height, width, heads, channels, config.decay_range, q)
    if q.dtype == torch.float64:
        single = spatial_prior(height, width, heads, channels, config.decay_range, q.float())
        prior = prior._replace(sin=single.sin.double(), cos=single.cos.double())
    return prior


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code: 1 where a kernel is wrong."""
    parser = argparse.ArgumentParser(prog="python -m rmt.benchmark.kernels", description=__doc__)
    parser.add_argument("--batch", type=int, default=64, help="images at 224²")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args(argv)
    try:
        content = run(options.batch, getattr(torch, options.dtype), options.seed)
    except RMTError as error:
        print(f"rmt.benchmark.kernels: {error}", file=sys.stderr)
        return 1
    if options.output:
        options.output.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if content["right"] else 1


def run(batch: int, dtype: torch.dtype, seed: int) -> dict[str, Any]:
    """All problems, printed as they come. Raises RMTError without a CUDA device."""
    if not torch.cuda.is_available():
        raise RMTError("this machine has no CUDA device that PyTorch can use")
    bandwidth, rate = _bandwidth(), _rate(str(dtype).removeprefix("torch."))
    print(f"{bandwidth / 1e12:.2f} TB/s, {rate / 1e12:.0f} TFLOP/s")
    print(f"{'µs':>8} {'floor':>8} {'of it':>6} {'plain':>8} {'error':>8}  problem")
    limit = 1e-4 if dtype == torch.float32 else 2e-2
    results = []
    for problem in problems(dtype, batch):
        found = measure(problem, dtype, bandwidth, rate, seed)
        results.append(found)
        slow = found["plain_seconds"]
        print(
            f"{found['seconds'] * 1e6:8.1f} {found['floor'] * 1e6:8.1f} {found['fraction_of_floor']:6.0%} "
            f"{'–' if slow is None else f'{slow * 1e6:.1f}':>8} {found['error']:8.1e}  {problem.name}"
            f"{'' if found['repeats'] else ', DOES NOT REPEAT'}{'' if found['error'] < limit else ', WRONG'}",
            flush=True,
        )
    right = all(found["error"] < limit and found["repeats"] for found in results)
    return dict(
        machine=describe("cuda"), bandwidth=bandwidth, rate=rate, batch=batch, seed=seed, right=right, results=results
    )


def _bandwidth() -> float:
    """Bytes read and written per second by a large copy."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    return 2 * source.nbytes / min(cuda_seconds(copy, 10) for _ in range(5))


def _rate(dtype: str) -> float:
    """Operations per second of a large matrix product."""
    product, operations = matrix_product(dtype, "cuda")
    return operations / min(cuda_seconds(product, 5) for _ in range(5))


if __name__ == "__main__":
    sys.exit(main())
