"""The tables and plots of `evidence.py`, from benchmarks/evidence/*.json, and their place in a page."""

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from evidence_tables import SIDES, SIZES, TABLES, Table
from first_hour import read

from rmt.atomic import write_text

MARKED = re.compile(r"(<!-- evidence: ([\w-]+) -->\n).*?(<!-- /evidence -->)", re.DOTALL)


def error(values: list[float]) -> float:
    """The standard error of the mean; NaN of a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def shown(values: list[float], sign: str = "") -> str:
    """Mean ± standard error, or the single value."""
    if len(values) == 1:
        return f"{values[0]:{sign}.2f}"
    return f"{mean(values):{sign}.2f} ± {error(values):.2f}"


def seeds(entries: list[dict[str, Any]], row: str) -> dict[int, dict[str, Any]]:
    """The runs of a row that count, by seed; without those that measure time or choose a learning rate."""
    return {e["seed"]: e for e in entries if e["row"] == row and e["kind"].startswith("seed")}


def table_lines(table: Table, entries: list[dict[str, Any]]) -> Iterator[str]:
    """The Markdown table of the results: mean ± standard error over the seeds."""
    last = "difference" if table.paired else "epochs" if table.seconds else ""
    head = [table.title, "parameters", f"test {table.metric}", *filter(None, [last]), "seeds", "CPU s"]
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    base = seeds(entries, next(iter(table.rows)))
    for row, network in table.rows.items():
        if not (found := seeds(entries, row)):
            continue
        cells = list(found.values())
        columns = [network.what, f"{cells[0]['parameters'] / 1e6:.2f} M", shown([e["test"] for e in cells])]
        if table.paired:
            differences = [e["test"] - base[seed]["test"] for seed, e in found.items() if seed in base]
            columns.append("–" if found == base or not differences else shown(differences, "+"))
        elif table.seconds:
            columns.append(str(cells[0]["epochs"]))
        columns += [str(len(cells)), f"{mean(e['cpu_seconds'] for e in cells):.0f}"]
        yield "| " + " | ".join(columns) + " |"


def size_lines(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Top-1 by the size of the test images: a row for each network, a column for each size."""
    yield "| trained on 32 × 32, tested on | " + " | ".join(f"{height} × {width}" for height, width in SIDES) + " |"
    yield "|---" * (len(SIDES) + 1) + "|"
    for row in SIZES:
        columns = [[e["test"] for e in entries if e["row"] == row and tuple(e["side"]) == side] for side in SIDES]
        if all(columns):
            what = TABLES["ablations-10-percent"].rows[row].what
            yield f"| {what} | " + " | ".join(shown(values) for values in columns) + " |"


def content(results: Path, name: str) -> list[str]:
    """The lines of a table; none if nothing of it was run."""
    if not (entries := read(results / f"{name}.json")):
        return []
    if name == "sizes":
        return list(size_lines(entries))
    machines = sorted({e.get("device", e["cpu"]) for e in entries})
    commits = sorted({e["commit"] for e in entries})
    return [
        *table_lines(TABLES[name], entries),
        "",
        f"{', '.join(machines)}; `benchmarks/evidence/{name}.json`, at {', '.join(commits)}.",
    ]


def plot_peers(entries: list[dict[str, Any]], table: Table, file: Path) -> None:
    """Accuracy on the held-out images over epochs and over seconds; the mean of the seeds."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for row, network in table.rows.items():
        if not (found := seeds(entries, row)):
            continue
        curves = [[point[1] for point in e["curve"]] for e in found.values()]
        values = [mean(points) for points in zip(*curves, strict=True)]
        whole = mean(e["cpu_seconds"] for e in found.values())
        width = 2.4 if row == next(iter(table.rows)) else 1.2
        axes[0].plot(range(1, len(values) + 1), values, linewidth=width, label=network.what)
        axes[1].plot([whole * (i + 1) / len(values) for i in range(len(values))], values, linewidth=width)
    axes[0].set(xlabel="epochs", ylabel="top-1 on held-out images, %")
    axes[1].set(xlabel="CPU seconds")
    axes[0].legend(fontsize=8, ncols=2)
    figure.savefig(file, dpi=130)
    plt.close(figure)


def write(results: Path, pages: list[Path]) -> None:
    """Fills the marked places of the pages and draws their plots, or prints all tables."""
    if not pages:
        for name in [*TABLES, "sizes"]:
            print("\n".join(content(results, name)))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if not MARKED.search(text):
            sys.exit(f"{page}: no line <!-- evidence: TABLE --> with <!-- /evidence --> after it")

        def filled(match: re.Match[str]) -> str:
            lines = content(results, match[2])
            return f"{match[1]}{chr(10).join(lines)}\n{match[3]}" if lines else match[0]

        write_text(page, MARKED.sub(filled, text))
        for name, table in TABLES.items():
            if table.seconds and (entries := read(results / f"{name}.json")):
                plot_peers(entries, table, page.parent / "images" / f"evidence-{name}.png")
