"""The plots of `evidence.py`, from benchmarks/evidence/*.json."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from evidence_tables import SIDES, SIZES, TABLES, Table
from first_hour import read

from rmt.benchmark.plot import plot as plot_benchmark

COSTS = "table11"  # what `rmt bench --preset table11 --output benchmarks/evidence/table11.json` measures
SQUARES = [height for height, width in SIDES if height == width]
#: What the pictures of a table show, by the names of their files.
PICTURES = {
    "sizes": {"evidence-sizes": "Accuracy by the side of square test images, for each kind of phases"},
    **{
        name: {
            f"evidence-{name}": f"Accuracy on held-out images over epochs and seconds of training steps: {table.title}"
        }
        for name, table in TABLES.items()
        if table.seconds
    },
    COSTS: {
        f"evidence-{COSTS}": "Published accuracy against speed, relative to Swin-T",
        f"evidence-{COSTS}-macs": "Published accuracy against multiply-adds",
    },
}


def draw(results: Path, images: Path, names: list[str]) -> None:
    """Draws the plots of tables that have been run."""
    for name in names:
        file = results / f"{name}.json"
        if name == COSTS:
            plot_benchmark(json.loads(file.read_text(encoding="utf-8")), images / f"evidence-{COSTS}.json")
        elif name == "sizes":
            plot_sizes(read(file), images / "evidence-sizes.png")
        elif TABLES[name].seconds:
            plot_peers(read(file), TABLES[name], images / f"evidence-{name}.png")


def error(values: list[float]) -> float:
    """The standard error of the mean; NaN of a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def seeds(entries: list[dict[str, Any]], row: str) -> dict[int, dict[str, Any]]:
    """The runs of a row that count, by seed; without those that choose a learning rate."""
    return {e["seed"]: e for e in entries if e["row"] == row and e["kind"].startswith("seed")}


def cpu_seconds(entries: Iterable[dict[str, Any]]) -> float | None:
    """The mean over the runs that were not resumed, because the time before it is not known; None if all were."""
    found = [entry["cpu_seconds"] for entry in entries if not entry.get("resumed")]
    return mean(found) if found else None


def step_of(entries: Iterable[dict[str, Any]], row: str) -> dict[str, Any]:
    """What was measured of a training step of a row before its runs."""
    return next(entry for entry in entries if entry["row"] == row and entry["kind"] == "step")


def epoch_seconds(entries: Iterable[dict[str, Any]], row: str) -> float:
    """The seconds of the training steps of an epoch of a row, as measured beforehand."""
    measured = step_of(entries, row)
    return float(measured["step_seconds"] * measured["steps_per_epoch"])


def plot_peers(entries: list[dict[str, Any]], table: Table, file: Path) -> None:
    """Accuracy on the held-out images over epochs and over seconds: mean, lowest and highest of the seeds."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(1, 2, figsize=(9, 4.4), sharey=True, layout="constrained")
    figure.suptitle(table.title, fontsize=11)
    for row, network in table.rows.items():
        if not (found := seeds(entries, row)):
            continue
        curves = [[point[1] for point in e["curve"]] for e in found.values()]
        values = [mean(points) for points in zip(*curves, strict=True)]
        epoch = epoch_seconds(entries, row)
        style = dict(linewidth=2.6, zorder=3) if row == next(iter(table.rows)) else dict(linewidth=1.3)
        lowest, highest = ([f(points) for points in zip(*curves, strict=True)] for f in (min, max))
        for one, unit in zip(axes, (1.0, epoch), strict=True):
            passed = [unit * (i + 1) for i in range(len(values))]
            (line,) = one.plot(passed, values, label=network.what, **style)
            one.fill_between(passed, lowest, highest, color=line.get_color(), alpha=0.2, linewidth=0)
    axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set(xlabel="epochs", ylabel="top-1 on held-out images, %", xlim=(0, None))
    axes[1].set(xlabel="seconds of training steps", xlim=(0, None))
    for one in axes:
        one.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, ncols=4, loc="outside lower center")
    figure.savefig(file, dpi=130)
    plt.close(figure)


def plot_sizes(entries: list[dict[str, Any]], file: Path) -> None:
    """Accuracy over the side of square test images, relative to that of training; mean and standard error."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for row in SIZES:
        values = {
            side: [e["test"] for e in entries if e["row"] == row and e["side"] == [side, side]] for side in SQUARES
        }
        if not all(values.values()):
            continue
        means = [mean(found) for found in values.values()]
        errors = [error(found) if len(found) > 1 else 0.0 for found in values.values()]
        axes.errorbar(SQUARES, means, errors, marker="o", markersize=4, capsize=3, label=SIZES[row])
    axes.axvline(32, color="grey", linewidth=1, linestyle=":")
    axes.set_xscale("log")
    axes.set_xticks(SQUARES, [f"{side}\n×{side / 32:g}" for side in SQUARES], minor=False)
    axes.minorticks_off()
    axes.set(xlabel="side of the test images in pixels (trained on 32)", ylabel="test top-1, %")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, ncols=2, loc="outside lower center")
    figure.savefig(file, dpi=130)
    plt.close(figure)
