"""Plots from the JSON of a run: `python -m rmt.benchmark.plot FILE.json…`. Needs matplotlib."""

import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from rmt.errors import RMTError
from rmt.extras import missing_extra
from rmt.model.variants import PAPER_TOP1

# Published top-1 accuracy on ImageNet-1k at 224², in percent: from the networks' own papers, and from timm for its own
# maxvit_tiny_rw_224.
ACCURACY = PAPER_TOP1 | {
    "swin_tiny_patch4_window7_224": 81.3,
    "convnext_tiny": 82.1,
    "caformer_s18": 83.6,
    "caformer_s36": 84.5,
    "convformer_s36": 84.1,
    "davit_small": 84.2,
    "gcvit_small": 84.3,
    "mambaout_small": 84.1,
    "maxvit_tiny_rw_224": 83.5,
    "maxvit_tiny_tf_224": 83.6,
    "maxvit_small_tf_224": 84.4,
}


def plot(content: dict[str, Any], path: Path) -> list[Path]:
    """Draw what the run can show: accuracy against speed, or cost per pixel against size. Returns the files.

    Args:
        content: of a run, see `run_benchmark`.
        path: the JSON's own path; the pictures stand beside it.
    Raises:
        RMTError: matplotlib is missing.
    """
    results = [r for r in content["results"] if "failed" not in r and r["step"] == "forward"]
    drawn = []
    if sum(r["model"] in ACCURACY for r in results if r["image_size"] == 224) > 1:
        drawn.append(_accuracy_against_speed(results, content, path.with_suffix(".png")))
    if len({r["image_size"] for r in results}) > 1:
        drawn.append(_cost_per_pixel(results, content, path.with_name(f"{path.stem}-pixels.png")))
    return drawn


def _figure():
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise missing_extra("drawing the plots", error) or error from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(figsize=(8, 5), layout="constrained")


def _variant(result: dict[str, Any]) -> str:
    words = [result["mode"], result["dtype"]]
    words += [result["backend"]] if result["backend"] != "auto" else []
    words += [f"window {result['tolerance']:g}"] if result["tolerance"] else []
    return ", ".join(words)


def _title(content: dict[str, Any]) -> str:
    machine = content["machine"]
    return f"{machine.get('gpu', machine['cpu'])}, {machine['threads']} threads, torch {machine['torch']}"


def _accuracy_against_speed(results: list[dict], content: dict[str, Any], path: Path) -> Path:
    figure, axes = _figure()
    series = defaultdict(list)
    for r in results:
        if r["model"] in ACCURACY and r["image_size"] == 224:
            ours = "ours" if r["model"].startswith("rmt_") else "timm"
            series[f"{ours}: {_variant(r)}, batch {r['batch']}"].append(r)
    for label, points in series.items():
        x, y = [r["images_per_second"] for r in points], [ACCURACY[r["model"]] for r in points]
        axes.plot(x, y, "o" if label.startswith("timm") else "s-", label=label)
    axes.margins(x=0.12)
    drawn = sorted((r["images_per_second"], ACCURACY[r["model"]], r["model"]) for rs in series.values() for r in rs)
    _name_points(axes, {name.split("_patch")[0]: place for *place, name in drawn}, [place for *place, _ in drawn])
    axes.set(xlabel="images per second, 224²", ylabel="published top-1 accuracy, %", title=_title(content))
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    return path


def _name_points(axes, named: dict[str, list[float]], points: list[list[float]]) -> None:
    """Each name to the right of its point, or above or below that where another name or a point is."""
    from matplotlib.transforms import Bbox

    axes.figure.canvas.draw()  # settles the axes' limits, and with them what overlaps
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform(points)]
    for name, place in named.items():
        for rise in (-3, 6, -12, -3):  # points; in a crowd, the first
            text = axes.annotate(name, place, fontsize=7, xytext=(7, rise), textcoords="offset points")
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            text.set_visible(False)
        text.set_visible(True)
        taken.append(box)


def _cost_per_pixel(results: list[dict], content: dict[str, Any], path: Path) -> Path:
    figure, axes = _figure()
    series, errors = defaultdict(list), defaultdict(list)
    for r in results:
        series[f"{r['model']}, {_variant(r)}"].append(
            (r["image_size"], 1e6 / r["images_per_second"] / (r["image_size"] * r.get("image_width", r["image_size"])))
        )
        if r.get("output_error") is not None:
            errors[f"{r['model']}, {_variant(r)}"].append(r["output_error"])
    for label, points in series.items():
        known = f", output error up to {max(errors[label]):.0e}" if label in errors else ""
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=label + known)
    axes.set(xlabel="image side, pixels", ylabel="µs per pixel", title=_title(content), ylim=(0, None))
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    return path


def main(paths: list[str]) -> int:
    """Plots each file; returns an exit code."""
    try:
        for path in map(Path, paths):
            if not path.is_file():
                raise RMTError(f"{path}: no such file")
            for drawn in plot(json.loads(path.read_text()), path):
                print(drawn)
    except RMTError as error:
        print(f"rmt.benchmark.plot: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
