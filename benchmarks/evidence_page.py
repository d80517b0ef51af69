"""The tables and plots of `evidence.py`, from benchmarks/evidence/*.json, and their place in a page."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

from evidence_costs import cost_lines
from evidence_plots import COSTS, PICTURES, cpu_seconds, draw, epoch_seconds, error, seeds, step_of
from evidence_tables import SIDES, SIZES, TABLES, Table
from first_hour import read

from rmt.atomic import write_text

MARKED = re.compile(r"(<!-- evidence: ([\w-]+) -->\n).*?(<!-- /evidence -->)", re.DOTALL)


def shown(values: list[float], sign: str = "") -> str:
    """Mean ± standard error, or the single value."""
    if len(values) == 1:
        return f"{values[0]:{sign}.2f}"
    return f"{mean(values):{sign}.2f} ± {error(values):.2f}"


def table_lines(table: Table, entries: list[dict[str, Any]]) -> Iterator[str]:
    """The Markdown table of the results: mean ± standard error over the seeds."""
    more = ["difference"] if table.paired else ["epochs", "learning rate"] if table.seconds else []
    time = "s of steps" if table.seconds else "CPU s"
    cost = ["multiply-adds"] if table.seconds else []
    head = [table.title, "parameters", *cost, f"{table.part} {table.metric}", *more, "seeds", time]
    yield "| " + " | ".join(head) + " |"
    yield "|---" * len(head) + "|"
    base = seeds(entries, next(iter(table.rows)))
    for row, network in table.rows.items():
        if not (found := seeds(entries, row)):
            continue
        cells = list(found.values())
        columns = [network.what, f"{cells[0]['parameters'] / 1e6:.2f} M"]
        columns += [f"{step_of(entries, row)['macs'] / 1e6:.0f} M"] if table.seconds else []
        columns.append(shown([e[table.part] for e in cells]))
        if table.paired:
            differences = [e[table.part] - base[seed][table.part] for seed, e in found.items() if seed in base]
            columns.append("–" if found == base or not differences else shown(differences, "+"))
        elif table.seconds:
            columns += [str(cells[0]["epochs"]), cells[0]["command"].split("--lr ")[-1].split()[0]]
        seconds = cells[0]["epochs"] * epoch_seconds(entries, row) if table.seconds else cpu_seconds(cells)
        columns += [str(len(cells)), "" if seconds is None else f"{seconds:.0f}"]
        yield "| " + " | ".join(columns) + " |"


def size_lines(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Top-1 by the size of the test images: a row for each network, a column for each size."""
    yield "| trained on 32 × 32, tested on | " + " | ".join(f"{height} × {width}" for height, width in SIDES) + " |"
    yield "|---" * (len(SIDES) + 1) + "|"
    for row in SIZES:
        columns = [[e["test"] for e in entries if e["row"] == row and tuple(e["side"]) == side] for side in SIDES]
        if all(columns):
            yield f"| {SIZES[row]} | " + " | ".join(shown(values) for values in columns) + " |"


def content(results: Path, name: str) -> list[str]:
    """The lines of a table and of its plots; none if nothing of it was run."""
    file = results / f"{name}.json"
    if not file.exists():
        return []
    if name == COSTS:
        costs = json.loads(file.read_text(encoding="utf-8"))
        return [*cost_lines(costs), "", f"`benchmarks/evidence/{name}.json`.", *picture_lines(name)]
    entries = read(file)
    machines = sorted({e.get("gpu", e["cpu"]) for e in entries})
    commits = sorted({e["commit"] for e in entries})
    lines = list(size_lines(entries) if name == "sizes" else table_lines(TABLES[name], entries))
    if len(lines) == 2:  # the head of a table whose first row is still to come
        return []
    lines += ["", f"{', '.join(machines)}; `benchmarks/evidence/{name}.json`, at {', '.join(commits)}."]
    return [*lines, *picture_lines(name)]


def picture_lines(name: str) -> Iterator[str]:
    """The pictures of a table, each after an empty line."""
    for file, what in PICTURES.get(name, {}).items():
        yield ""
        yield f"![{what}](images/{file}.png)"


def write(results: Path, pages: list[Path]) -> None:
    """Fills the marked places of the pages and draws their plots, or prints all tables."""
    if not pages:
        for name in [*TABLES, "sizes", COSTS]:
            print("\n".join(content(results, name)))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        if not MARKED.search(text):
            sys.exit(f"{page}: no line <!-- evidence: TABLE --> with <!-- /evidence --> after it")

        def filled(match: re.Match[str]) -> str:
            lines = content(results, match[2])
            return f"{match[1]}{chr(10).join(lines)}\n{match[3]}" if lines else match[0]

        write_text(page, MARKED.sub(filled, text))
        draw(results, page.parent / "images", [m[2] for m in MARKED.finditer(text) if content(results, m[2])])
