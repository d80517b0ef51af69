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

#: Places of a label from its point, in points, the best first.
_OFFSETS = [(7, 0), (-7, 0), (0, 9), (0, -9), (6, 7), (6, -7), (-6, 7), (-6, -7)]


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
    networks = len({r["model"] for r in published})
    if len(published) > 1:
        files.append(path.with_suffix(".png"))
        with _axes(content, files[-1], networks) as axes:
            if "series" in content:
                axes.set_xscale("log")
                for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
                    axis("{x:g}")
                published = _one_of_each(published)
            _accuracy_against(axes, published, _speed, _speed_label(content))
    if "series" in content and len(published) > 1:
        files.append(path.with_name(f"{path.stem}-macs.png"))
        with _axes(content, files[-1], networks) as axes:
            counted = [r for r in _one_of_each(published) if r["macs"]]
            _accuracy_against(axes, counted, lambda r: r["macs"] / 1e9, "multiply-adds of an image, 10⁹")
    if "series" not in content and len({r["image_size"] for r in results}) > 1:
        files.append(path.with_name(f"{path.stem}-pixels.png"))
        with _axes(content, files[-1]) as axes:
            _cost_per_pixel(axes, results)
    return files


@contextmanager
def _axes(content: dict[str, Any], path: Path, labels: int = 0) -> Iterator[Any]:
    """Yield the axes of a figure, titled with the machine and larger for many labels; write the figure on exit."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise missing_extra("drawing the plots", error) or error from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9.5, 8) if labels > 20 else (8, 5), layout="constrained")
    machine = content["machine"]
    name, threads = machine.get("gpu", machine["cpu"]), machine["threads"]
    axes.set_title(f"{name}, {threads} thread{'s' * (threads > 1)}, torch {machine['torch']}", fontsize=11)
    axes.grid(alpha=0.3)
    yield axes
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def _variant(result: dict[str, Any]) -> str:
    words = [result["mode"], result["dtype"]]
    words += [result["backend"]] if result["backend"] != "auto" else []
    words += [f"window {result['tolerance']:g}"] if result["tolerance"] else []
    return ", ".join(words)


def _is_published(result: dict[str, Any]) -> bool:
    """Whether the accuracy of the network is known for images of this size."""
    return result["model"] in PUBLISHED and PUBLISHED[result["model"]].side == result["image_size"]


def _one_of_each(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A result of each network, without its variant: of the deployed form, where it was measured."""
    ordered = sorted(results, key=lambda r: r["mode"].startswith("deploy"))
    return list({r["model"]: r | dict(mode="") for r in ordered}.values())


def _speed(result: dict[str, Any]) -> float:
    """Images per second; of a series relative to the reference network in the same run."""
    reference = result.get("reference_images_per_second")
    return result["images_per_second"] / reference if reference else result["images_per_second"]


def _speed_label(content: dict[str, Any]) -> str:
    if series := content.get("series"):
        reference = series["reference"].split("_patch")[0]
        return f"images per second ÷ those of {reference} in the same run; RMT in its deployed form"
    return "images per second, 224²"


def _accuracy_against(axes: Any, results: list[dict], x_of: Callable[[dict], float], label: str) -> None:
    series = defaultdict(list)
    for r in results:
        published = PUBLISHED[r["model"]]
        variant = f": {_variant(r)}, batch {r['batch']}" if r["mode"] else ""
        key = ("RMT" if r["model"].startswith("rmt_") else "timm", variant, published.teacher)
        series[key].append((x_of(r), published.top1, _short(r)))
    colors: dict[tuple[str, str], str] = {}
    for (family, variant, teacher), found in series.items():
        x, y = [point[0] for point in sorted(found)], [point[1] for point in sorted(found)]
        color = colors.setdefault((family, variant), f"C{len(colors)}")
        line = "o" if family == "timm" else "s--" if teacher else "s-"
        filling, legend = "white" if teacher else color, f"{family}{', trained with a teacher' * teacher}{variant}"
        axes.plot(x, y, line, color=color, markerfacecolor=filling, label=legend)
    axes.margins(x=0.14)
    points = sorted(point for found in series.values() for point in found)
    labels = {name: point for *point, name in points}
    _label_points(axes, labels, [point for *point, _ in points])
    axes.set(xlabel=label, ylabel="published top-1 accuracy, %")


def _short(result: dict[str, Any]) -> str:
    """The name of a network, with the size of its images if it is not 224."""
    name, side = result["model"].split("_patch")[0].removesuffix("_224"), result["image_size"]
    return name if side == 224 else f"{name}, {side}²"


def _label_points(axes: Any, labels: dict[str, list[float]], points: list[list[float]]) -> None:
    """Write each label beside its point, where it overlaps the fewest points and labels."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    outline = [withStroke(linewidth=2.5, foreground="white")]  # of letters that a line crosses
    axes.figure.draw_without_rendering()  # sets the limits of the axes, which decide what overlaps
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in axes.transData.transform(points)]
    for name, point in sorted(labels.items(), key=lambda label: label[1], reverse=True):  # most labels are to the right
        found = []
        for x, y in _OFFSETS:
            place: dict[str, Any] = dict(ha="center" if x == 0 else "left" if x > 0 else "right", va="center")
            place |= dict(xytext=(x, y), textcoords="offset points")
            text = axes.annotate(name, point, fontsize=8, path_effects=outline, **place)
            found.append((text.get_window_extent(), text))
            text.remove()
        box, text = min(found, key=lambda place: place[0].count_overlaps(taken))
        axes.add_artist(text)
        taken.append(box.padded(3, 0))


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
