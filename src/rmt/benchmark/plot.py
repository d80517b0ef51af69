"""Plots from the JSON of a run: `python -m rmt.benchmark.plot FILE.json…`. Needs matplotlib."""

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rmt.benchmark.published import PUBLISHED
from rmt.errors import RMTError
from rmt.extras import missing_extra


def plot(content: dict[str, Any], path: Path) -> list[Path]:
    """Plot accuracy against speed, cost per pixel against image size, or both, as far as the results allow.

    Args:
        content: results of `run_benchmark`.
        path: path of the JSON; the plots are written next to it.
    Returns:
        the files that were written.
    Raises:
        RMTError: matplotlib is missing.
    """
    results = [r for r in content["results"] if "failed" not in r and r["step"] == "forward"]
    files = []
    published = [r for r in results if _is_published(r)]
    if len(published) > 1:
        files.append(path.with_suffix(".png"))
        with _axes(content, files[-1]) as axes:
            _accuracy_against(axes, published, _speed, _speed_label(content))
    if "series" in content and len(published) > 1:
        files.append(path.with_name(f"{path.stem}-macs.png"))
        with _axes(content, files[-1]) as axes:
            once = list({r["model"]: r | dict(mode="", dtype="") for r in published if r["macs"]}.values())
            _accuracy_against(axes, once, lambda r: r["macs"] / 1e9, "multiply-adds of an image, 10⁹")
    if "series" not in content and len({r["image_size"] for r in results}) > 1:
        files.append(path.with_name(f"{path.stem}-pixels.png"))
        with _axes(content, files[-1]) as axes:
            _cost_per_pixel(axes, results)
    return files


@contextmanager
def _axes(content: dict[str, Any], path: Path) -> Iterator[Any]:
    """Yield the axes of a figure, titled with the machine; write the figure on exit."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise missing_extra("drawing the plots", error) or error from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
    machine = content["machine"]
    name = machine.get("gpu", machine["cpu"])
    axes.set_title(f"{name}, {machine['threads']} threads, torch {machine['torch']}")
    axes.grid(alpha=0.3)
    yield axes
    axes.legend(fontsize=7)
    figure.savefig(path, dpi=130)


def _variant(result: dict[str, Any]) -> str:
    words = [result["mode"], result["dtype"]]
    words += [result["backend"]] if result["backend"] != "auto" else []
    words += [f"window {result['tolerance']:g}"] if result["tolerance"] else []
    return ", ".join(words)


def _is_published(result: dict[str, Any]) -> bool:
    """Whether the accuracy of the network is known for images of this size."""
    return result["model"] in PUBLISHED and PUBLISHED[result["model"]].side == result["image_size"]


def _speed(result: dict[str, Any]) -> float:
    """Images per second; of a series relative to the reference network in the same run."""
    reference = result.get("reference_images_per_second")
    return result["images_per_second"] / reference if reference else result["images_per_second"]


def _speed_label(content: dict[str, Any]) -> str:
    series = content.get("series")
    return f"images per second ÷ those of {series['reference']}" if series else "images per second, 224²"


def _accuracy_against(axes: Any, results: list[dict], x_of: Callable[[dict], float], label: str) -> None:
    series = defaultdict(list)
    for r in results:
        ours = "ours" if r["model"].startswith("rmt_") else "timm"
        teacher = ", trained with a teacher" if PUBLISHED[r["model"]].teacher else ""
        words = [ours + teacher, _variant(r)] if r["mode"] else [ours + teacher]
        series[f"{': '.join(words)}, batch {r['batch']}"].append((x_of(r), PUBLISHED[r["model"]].top1, r["model"]))
    for name, found in series.items():
        x, y = [point[0] for point in sorted(found)], [point[1] for point in sorted(found)]
        axes.plot(x, y, "o" if not name.startswith("ours:") else "s-", label=name)
    axes.margins(x=0.12)
    points = sorted(point for found in series.values() for point in found)
    _label_points(axes, {name.split("_patch")[0]: point for *point, name in points}, [point for *point, _ in points])
    axes.set(xlabel=label, ylabel="published top-1 accuracy, %")


def _label_points(axes, labels: dict[str, list[float]], points: list[list[float]]) -> None:
    """Write each label to the right of its point, moved up or down if it would overlap a point or another label."""
    from matplotlib.transforms import Bbox

    axes.figure.canvas.draw()  # sets the limits of the axes, which decide what overlaps
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform(points)]
    for name, point in labels.items():
        for shift in (-3, 6, -12, -3):  # in points; the first if all overlap
            text = axes.annotate(name, point, fontsize=7, xytext=(7, shift), textcoords="offset points")
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
            text.set_visible(False)
        text.set_visible(True)
        taken.append(box)


def _cost_per_pixel(axes: Any, results: list[dict]) -> None:
    series, errors = defaultdict(list), defaultdict(list)
    for r in results:
        label, side = f"{r['model']}, {_variant(r)}", r["image_size"]
        series[label].append((side, 1e6 / r["images_per_second"] / (side * r.get("image_width", side))))
        if r.get("output_error") is not None:
            errors[label].append(r["output_error"])
    for label, points in series.items():
        known = f", output error up to {max(errors[label]):.0e}" if label in errors else ""
        axes.plot(*zip(*sorted(points), strict=True), "o-", label=label + known)
    axes.set(xlabel="image side, pixels", ylabel="µs per pixel", ylim=(0, None))


def main(paths: list[str]) -> None:
    """Plot each file."""
    try:
        for path in map(Path, paths):
            if not path.is_file():
                raise RMTError(f"{path}: no such file")
            for file in plot(json.loads(path.read_text()), path):
                print(file)
    except RMTError as error:
        sys.exit(f"rmt.benchmark.plot: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
