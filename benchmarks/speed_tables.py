"""`python benchmarks/speed_tables.py`: write the tables of docs/speed.md and docs/scaling.md from committed results.

A table stands between `<!-- speed: NAME -->` and `<!-- /speed -->`, where NAME is one of `TABLES`. The tables of
targets are written by hand; tests/docs/test_speed.py holds their figures to the results.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rmt.atomic import write_text
from rmt.benchmark.published import PUBLISHED

ROOT = Path(__file__).parents[1]
PAGES = ("docs/speed.md", "docs/scaling.md")
MARKED = re.compile(r"(<!-- speed: ([\w-]+) -->\n).*?(<!-- /speed -->)", re.DOTALL)
SWIN = "swin_tiny_patch4_window7_224"
OURS = {f"rmt_{size}": f"RMT-{size[0].upper()}" for size in ("tiny", "small", "base", "large")}
PLAIN, KERNELS, DEPLOYED = (
    {"mode": m, "backend": b} for m, b in (("eager", "plain"), ("eager", "auto"), ("deploy", "auto"))
)
PLAIN_GRAPH, KERNELS_GRAPH = ({"mode": "eager+graph", "backend": backend} for backend in ("plain", "auto"))
DEPLOYED_GRAPH = {"mode": "deploy+graph", "backend": "auto"}

KERNEL_ROWS = {  # text of a row -> problem of benchmarks/kernels.py, and its directions
    "a pass over rows of 56, forward, backward": ("rows of 64×56×56, 4 heads of 16", "forward", "backward"),
    "a pass over rows of 28": ("rows of 64×28×28, 4 heads of 32", "forward", "backward"),
    "a pass over rows of 14": ("rows of 64×14×14, 8 heads of 32", "forward", "backward"),
    "rows and columns of 200 × 334, batch 2": ("rows and columns of 2×200×334, 4 heads of 16", "forward", "backward"),
    "rows and columns of 100 × 167": ("rows and columns of 2×100×167, 4 heads of 32", "forward", "backward"),
    "all pairs of 25 × 42": ("all pairs of 2×25×42, 16 heads of 32", "forward", "backward"),
    "3×3 depthwise over 56 × 56 × 256, with the addition": ("depthwise 3×3 of 64×56×56×256", "forward"),
    "GELU and 3×3 depthwise over 56 × 56 × 256, forward and gradients": (
        "GELU and depthwise 3×3 of 64×56×56×256", "forward and gradients",
    ),
    "LayerNorm of 56 × 56 × 64, forward; forward and gradients": (
        "LayerNorm of 64×56×56×64", "forward", "forward and gradients",
    ),
    "addition and LayerNorm of 56 × 56 × 64": ("addition and LayerNorm of 64×56×56×64", "forward"),
}  # fmt: skip
IMPORTS = {  # text of a row -> imports of benchmarks/start_time.py
    "interpreter, tyro": ("interpreter", "tyro"),
    "torch": ("torch",),
    "torchvision, which imports `torch._dynamo`": ("torchvision (torch._dynamo with it)",),
    "timm": ("timm",),
    "torchmetrics, which imports SciPy and Matplotlib where they are installed; Lightning needs it": (
        "torchmetrics (SciPy and Matplotlib with it)",
    ),
    "Lightning": ("Lightning",),
    "PyArrow": ("PyArrow",),
    "rmt": ("rmt",),
}
LOADED = {  # text of a row -> augmentation and stored images of benchmarks/loader.py
    "the paper's augmentation": ("the paper's", ""),
    "crop and flip alone": ("crop and flip", ""),
    "the paper's, shards of short side 256": ("the paper's", ", shards of short side 256"),
    "crop and flip, shards of short side 256": ("crop and flip", ", shards of short side 256"),
}


def read(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / f"{name}.json").read_text(encoding="utf-8"))


def entry(name: str, **which: Any) -> dict[str, Any]:
    """The one result of a run of `rmt bench` that has these values."""
    (found,) = [e for e in read(name)["results"] if all(e[key] == value for key, value in which.items())]
    return found


def milliseconds(name: str, **which: Any) -> float:
    return entry(name, **which)["seconds"]["median"] * 1e3


def with_spread(name: str, **which: Any) -> str:
    """The median in ms, and half the distance of the quartiles."""
    median, (low, high) = (entry(name, **which)["seconds"][key] for key in ("median", "quartiles"))
    return f"{median * 1e3:.1f} (± {(high - low) / 2 / median * 100:.0f} %)"


def short(model: str) -> str:
    return model.removesuffix("_patch4_window7_224").removesuffix("_tf_224")


def table(head: str, rows: Iterator[list[str]]) -> str:
    columns = head.split(" | ")
    lines = [columns, *rows]
    texts = [("| " + " | ".join(cells) + " |").replace("  ", " ") for cells in lines]
    return "\n".join([texts[0], "|---" * len(columns) + "|", *texts[1:]]) + "\n"


def cpu_steps() -> Iterator[list[str]]:
    ours = (PLAIN, KERNELS, DEPLOYED, {"mode": "deploy+compile"})
    times = [milliseconds("cpu-224", model="rmt_small", **which) for which in ours]
    times += [milliseconds("cpu-224", model=SWIN, mode=mode) for mode in ("eager", "compile")]
    yield [f"{time:,.0f}" for time in times]


def cpu_kernels() -> Iterator[list[str]]:
    found = {(e["part"], e["dtype"], e["gradients"]): e["seconds"] for e in read("cpu-kernels")["results"]}
    columns = [("float32", False), ("float32", True), ("bfloat16", False)]
    for part in dict.fromkeys(part for part, _, _ in found):
        cells = []
        for dtype, gradients in columns:
            seconds = found.get((part, dtype, gradients), {})
            cells += [f"{1e3 * seconds[way]:.1f}" if way in seconds else "" for way in ("plain", "two", "kernels")]
        yield [part, *cells]


def cpu_runtimes() -> Iterator[list[str]]:
    results = read("cpu-runtimes")["results"]
    for model in dict.fromkeys(e["model"] for e in results):
        modes = {e["mode"] for e in results if e["model"] == model}
        columns = ("eager", "deploy", "onnxruntime", "openvino")
        times = [milliseconds("cpu-runtimes", model=model, mode=mode) if mode in modes else None for mode in columns]
        yield [f"image through {short(model)}", *("–" if time is None else f"{time:.0f}" for time in times)]


def cpu_bfloat16() -> Iterator[list[str]]:
    ways, dtypes = (PLAIN, KERNELS, DEPLOYED), ("float32", "bfloat16")

    def cells(name: str, model: str, show: Callable[[float], str], *, steps: tuple[str, ...] = dtypes) -> list[str]:
        measured = [{key: e[key] for key in ("model", "dtype", "mode", "backend")} for e in read(name)["results"]]
        wanted = [dict(model=model, dtype=dtype, **way) for dtype in steps for way in ways]
        if model == SWIN:  # it has one form, that of PyTorch's operators
            wanted = [which | dict(backend="auto") if which["backend"] == "plain" else {} for which in wanted]
        return [show(milliseconds(name, **which)) if which in measured else "" for which in wanted]

    def images(time: float) -> str:
        return f"{8e3 / time:.2f}"

    def step(time: float) -> str:
        return f"{time:,.0f}"

    autocast = ("float32", "autocast")
    yield ["RMT-S, images/s", *cells("cpu-bfloat16", "rmt_small", images)]
    yield ["swin_tiny, images/s", *cells("cpu-bfloat16", SWIN, images)]
    yield ["RMT-T, latency of one image", *cells("cpu-bfloat16-latency", "rmt_tiny", lambda time: f"{time:.1f}")]
    yield [
        "RMT-S, training step (bfloat16: autocast)",
        *cells("cpu-bfloat16-train", "rmt_small", step, steps=autocast),
    ]
    yield ["swin_tiny, training step", *cells("cpu-bfloat16-train", SWIN, step, steps=autocast)]


def gpu_forward() -> Iterator[list[str]]:
    for model, label in OURS.items():
        cells = [with_spread("gpu/forward", model=model, **which) for which in (PLAIN, KERNELS)]
        for name in ("gpu/forward", "gpu/forward-128"):
            plain, deployed = (milliseconds(name, model=model, **which) for which in (PLAIN_GRAPH, DEPLOYED_GRAPH))
            cells += [f"{plain:.1f}", f"{deployed:.1f}", f"{plain / deployed:.1f}"]
        yield [label, f"{PUBLISHED[model].top1:.1f}", *cells]


def gpu_peers() -> Iterator[list[str]]:
    peers = {e["model"] for e in read("gpu/forward")["results"]} - OURS.keys()
    found = [(PUBLISHED[m].top1, milliseconds("gpu/forward", model=m, **KERNELS_GRAPH), m) for m in peers]
    for top1, time, model in sorted(found):
        yield [short(model), f"{top1:.1f}", f"{time:.1f}"]


def gpu_large() -> Iterator[list[str]]:
    for model, label in OURS.items():
        plain, deployed = (entry("gpu/large", model=model, **which) for which in (PLAIN, DEPLOYED_GRAPH))
        times = [f"{e['seconds']['median'] * 1e3:.1f}" for e in (plain, deployed)]
        yield [label, *times, f"{plain['peak_memory'] / 1e6:,.0f} → {deployed['peak_memory'] / 1e6:,.0f}"]


def gpu_train() -> Iterator[list[str]]:
    for model, label in OURS.items():
        name = "gpu/train" if model == "rmt_small" else "gpu/train-others"
        plain = entry(name, model=model, **PLAIN_GRAPH)
        kernels = entry("gpu/train-large" if model == "rmt_large" else name, model=model, **KERNELS_GRAPH)
        times = [e["seconds"]["median"] * 1e3 for e in (plain, kernels)]
        memory = [f"{e['peak_memory'] / 1e9:.2f}" if e["peak_memory"] else "" for e in (plain, kernels)]
        used = " → ".join(memory) if all(memory) else f"kernels: {memory[1]}" if memory[1] else "–"
        yield [label, *(f"{time:.1f}" for time in times), f"{times[0] / times[1]:.2f}", used]
    swin = entry("gpu/train", model=SWIN, **KERNELS_GRAPH)
    yield ["swin_tiny's", f"{swin['seconds']['median'] * 1e3:.1f}", "–", "–", f"{swin['peak_memory'] / 1e9:.2f}"]


def gpu_kernels() -> Iterator[list[str]]:
    by_problem = {e["problem"]: e for e in read("gpu/kernels")["results"]}
    for text, (problem, *directions) in KERNEL_ROWS.items():
        found = [by_problem[f"{problem}, {direction}"] for direction in directions]
        separator = "; " if "; " in text else ", "
        times, plain = ([f"{e[key] * 1e6:,.0f}" for e in found] for key in ("seconds", "plain_seconds"))
        shares = [f"{e['fraction_of_floor'] * 100:.0f} %" for e in found]
        yield [text, *(separator.join(cells) for cells in (times, shares, plain))]


def start() -> Iterator[list[str]]:
    imports = read("start-time")["imports"]
    for text, names in IMPORTS.items():
        seconds = [f"{sum(imports[name][key] for name in names):.2f}" for key in ("without", "with")]
        yield [text, *seconds, f"{imports[names[-1]]['peak_mb']:,}"]


def loaders() -> Iterator[list[str]]:
    found = read("loader")
    times, gains = found["cpu_ms_per_image"], found["speed_against_pillow"]
    for text, (augmentation, stored) in LOADED.items():
        cells = []
        for loader in ("pillow", "tensor", "timm", "WebDataset"):
            key = f"{augmentation}: {loader}{stored}"
            cells.append(f"{times[key]:.2f} ({gains[key]:.2f} ×)" if key in times else "")
        yield [text, cells[0].removesuffix(" (1.00 ×)"), *cells[1:]]


def kernels_head() -> str:
    found = read("gpu/kernels")
    limit = f"{found['bandwidth'] / 1e12:.2f} TB/s, or of its products at {found['rate'] / 1e12:.0f} TFLOP/s"
    return f"kernel (limit: the time to move its bytes at {limit}) | µs | limit ÷ time | plain, µs"


_GRAPH = "plain | deployed | plain ÷ deployed"
TABLES: dict[str, tuple[str | Callable[[], str], Callable[[], Iterator[list[str]]]]] = {
    "cpu-steps": ("plain | kernels | deployed | deployed and compiled | swin_tiny | swin_tiny compiled", cpu_steps),
    "cpu-kernels": (
        "ms | float32: plain | two kernels | kernels | with gradients: plain | two | kernels | "
        "bfloat16: plain | two | kernels",
        cpu_kernels,
    ),
    "cpu-runtimes": ("224², ms | eager | deployed | onnxruntime | OpenVINO", cpu_runtimes),
    "cpu-bfloat16": (
        " | float32: plain | kernels | deployed | bfloat16: plain | kernels | deployed", cpu_bfloat16,
    ),
    "gpu-forward": (
        "forward, 224², ms | top-1, % | eager, batch 64: plain | kernels | "
        f"graph, batch 64: {_GRAPH} | graph, batch 128: {_GRAPH}",
        gpu_forward,
    ),
    "gpu-peers": ("other networks | top-1, % | graph, batch 64, ms", gpu_peers),
    "gpu-large": ("800 × 1333, batch 2 | plain, eager, ms | deployed, graph | memory, MB", gpu_large),
    "gpu-train": (
        "training step, autocast, batch 64, graph | plain, ms | kernels, ms | plain ÷ kernels | memory, GB", gpu_train,
    ),
    "gpu-kernels": (kernels_head, gpu_kernels),
    "start": ("import | CPU seconds | with garbage collection | memory after it, MB", start),
    "loaders": ("CPU ms per image at 224² | pillow | tensor | timm | WebDataset", loaders),
}  # fmt: skip
"""Name of a table -> its head and its rows."""


def filled(text: str) -> str:
    """The page with its tables from the results."""

    def fill(found: re.Match[str]) -> str:
        head, rows = TABLES[found[2]]
        return found[1] + table(head if isinstance(head, str) else head(), rows()) + found[3]

    return MARKED.sub(fill, text)


if __name__ == "__main__":
    for name in PAGES:
        write_text(ROOT / name, filled((ROOT / name).read_text(encoding="utf-8")))
