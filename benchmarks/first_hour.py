"""What a first hour gives: the three finetune recipes by their plain commands, beside small baselines.

    python benchmarks/first_hour.py run --data FOLDER    # cifar10/, bccd/, camvid/ in it; about nine hours of one core
    python benchmarks/first_hour.py run --data FOLDER --cells camvid baselines --seeds 1 --core 0
    python benchmarks/first_hour.py table docs/your-*.md

`run` trains every cell that benchmarks/first-hour.json lacks, one at a time, on one core, and adds its result to the
file, so an interrupted measurement is continued by the same command. A cell is one run: `rmt train` as a user types it,
with --seed and --output alone added, or a baseline of `baselines.py` on the same images, for the CPU seconds that the
run of the same seed took. Test parts are read once, at the end: by the run itself (CIFAR-10), or by `rmt evaluate`.
CPU seconds are those of all processes of the command. Minutes pass on the wall, so the core must be free; where other
work shares it, `--cpu-clock` lets them pass by the CPU time of the process, which each result and the table then say.

`table` prints the results as a Markdown table. In the files named it writes the rows of a recipe between the lines
`<!-- first-hour: RECIPE -->` and `<!-- /first-hour -->` (without a recipe: all rows), and the plan that a cell's first
run printed between `<!-- first-hour: plan of CELL -->` and the same end.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, TextIO

from filelock import FileLock

from rmt.atomic import write_text
from rmt.benchmark.machine import describe

HERE = Path(__file__).resolve().parent
ROWS = 10_000  # of CIFAR-10's training images
MARKED = re.compile(r"(<!-- first-hour(?:: plan of (\w+)|: ([\w-]+))? -->\n).*?(<!-- /first-hour -->)", re.DOTALL)
CPU_CLOCK = """import sys, threading, time
from rmt.commands.cli import main
time.monotonic = time.process_time
sys.exit(main(sys.argv[1:]))"""  # threads keep the clock that they have imported
CHOSEN = (
    "model",
    "precision",
    "image_size",
    "short_side",
    "crop_size",
    "batch_size",
    "epochs",
    "epoch_repeats",
    "iterations",
)


@dataclass(frozen=True)
class Cell:
    """A plain command, what it is scored by, and the baseline beside it."""

    title: str
    recipe: str
    data: str
    minutes: int
    metric: str
    goal: float
    baseline: str
    baseline_title: str


CELLS = {
    "cifar10": Cell(
        "CIFAR-10, the first 10,000 training photos", "finetune", "cifar10-10k", 3, "top-1", 70, "resnet9", "ResNet-9"
    ),
    "cifar10-50k": Cell(
        "CIFAR-10, all 50,000 training photos", "finetune", "cifar10", 60, "top-1", 88, "resnet9", "ResNet-9"
    ),
    "bccd": Cell(
        "BCCD, 205 photos of blood cells", "finetune-detect", "bccd", 5, "AP50", 88, "ssdlite", "SSDLite (torchvision)"
    ),
    "camvid": Cell("CamVid, 367 street scenes", "finetune-segment", "camvid", 15, "mIoU", 42, "unet", "U-Net"),
}


class Bench:
    """Runs cells in the folder `work`, where the data are linked, and keeps their results in the file `results`."""

    def __init__(
        self, data: Path, work: Path, results: Path, *, core: int = 0, minutes: float = 0, cpu_clock: bool = False
    ) -> None:
        self.work, self.results, self.core, self.minutes = work.resolve(), results.resolve(), core, minutes
        self.cpu_clock = cpu_clock
        self.work.mkdir(parents=True, exist_ok=True)
        for name in ("cifar10", "bccd", "camvid"):
            if not (self.work / name).exists():
                (self.work / name).symlink_to((data / name).resolve(), target_is_directory=True)
        take_rows(data / "cifar10", self.work / "cifar10-10k", ROWS)

    def run(self, name: str, seed: int) -> None:
        """The plain command of a cell."""
        if self.entry(name, seed, "rmt"):
            return
        cell, run = CELLS[name], f"{name}-{seed}"
        shutil.rmtree(self.work / run, ignore_errors=True)  # of an interrupted measurement
        train = ["rmt", "train", cell.recipe, "--data", cell.data, "--minutes", f"{self.minutes or cell.minutes:g}"]
        result = self.timed([*train, "--seed", str(seed), "--output", run], run)
        result["clock"] = "cpu" if self.cpu_clock else "wall"
        recipe, metrics = (json.loads((self.work / run / f"{file}.json").read_text()) for file in ("recipe", "metrics"))
        result |= {"chosen": {key: recipe[key] for key in CHOSEN if key in recipe}, "plan": self.plan(run)}
        result |= {"last_epoch": metrics["last"], "threads": metrics["machine"]["threads"]}
        if cell.recipe == "finetune":
            score = metrics["best"]["test"]["top1"]
        else:
            evaluate = ["rmt", "evaluate", run, "--data", cell.data, "--split", "test", "--output", f"{run}.test.json"]
            result["evaluation"] = self.timed(evaluate, f"{run}.test")
            found = json.loads((self.work / f"{run}.test.json").read_text())
            score = 100 * found["figures"]["box"]["ap50"] if name == "bccd" else found["miou"]
        self.add(name, seed, "rmt", {"score": round(score, 2), **result})

    def run_baseline(self, name: str, seed: int) -> None:
        """The baseline of a cell, for the CPU seconds of the command."""
        if self.entry(name, seed, "baseline"):
            return
        cell, ours = CELLS[name], self.entry(name, seed, "rmt")
        if ours is None:
            print(f"{name}, seed {seed}: no baseline before the command itself is measured")
            return
        output = f"{name}-{seed}.baseline"
        command = ["python", str(HERE / "baselines.py"), cell.baseline, "--data", cell.data, "--seed", str(seed)]
        command += ["--cpu-seconds", f"{ours['cpu_seconds']:.0f}", "--output", f"{output}.json"]
        result = self.timed(command, output)
        self.add(name, seed, "baseline", json.loads((self.work / f"{output}.json").read_text()) | result)

    def timed(self, command: list[str], log: str) -> dict[str, Any]:
        """Runs a command of this environment on the core, its output into a file; ends the program if it fails."""
        executable = Path(sys.executable).parent / command[0]
        shown = ["benchmarks/baselines.py" if word == str(HERE / "baselines.py") else word for word in command]
        typed = f"taskset -c {self.core} {' '.join(shown)}"
        print(typed, flush=True)
        load = round(os.getloadavg()[0], 2)
        pinned = ["taskset", "-c", str(self.core), str(executable), *command[1:]]
        if self.cpu_clock and command[:2] == ["rmt", "train"]:
            pinned[3:4] = [sys.executable, "-c", CPU_CLOCK]
        with (self.work / f"{log}.log").open("w") as output:
            return {"command": typed, **run_timed(pinned, output), "load": load}

    def plan(self, run: str) -> list[str]:
        """The five lines that say what was planned."""
        lines = (self.work / f"{run}.log").read_text().splitlines()
        start = next((i for i, line in enumerate(lines) if line.startswith("plan for")), len(lines))
        return lines[start : start + 5]

    def entry(self, name: str, seed: int, kind: str) -> dict[str, Any] | None:
        return next((e for e in read(self.results) if (e["cell"], e["seed"], e["kind"]) == (name, seed, kind)), None)

    def add(self, name: str, seed: int, kind: str, result: dict[str, Any]) -> None:
        """Appends a result to the file, which another process may be writing to as well."""
        packages = ("torch", "torchvision", "timm", "lightning")
        machine = describe("cpu")
        entry = {"cell": name, "seed": seed, "kind": kind, "metric": CELLS[name].metric, **result}
        entry |= {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit(), "cpu": machine["cpu"]}
        entry["versions"] = {"python": machine["python"], **{package: version(package) for package in packages}}
        with FileLock(self.work / "results.lock"):
            entries = [*read(self.results), entry]
            write_text(self.results, json.dumps(entries, indent=1, ensure_ascii=False) + "\n")
        print(f"{name}, seed {seed}, {kind}: {entry['score']} % in {entry['cpu_seconds']} CPU s", flush=True)


def run_timed(command: list[str], log: TextIO, **options: Any) -> dict[str, float]:
    """Runs a command in the folder of `log`, its output into that file; returns the CPU seconds of all its processes
    and the wall seconds. Ends the program if the command fails. `options`: of `subprocess.Popen`."""
    start = time.monotonic()
    process = subprocess.Popen(command, cwd=Path(log.name).parent, stdout=log, stderr=subprocess.STDOUT, **options)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"exit code {process.returncode}; its output is in {log.name}")
    wall = time.monotonic() - start
    return {"cpu_seconds": round(used.ru_utime + used.ru_stime, 1), "wall_seconds": round(wall, 1)}


def read(results: Path) -> list[dict[str, Any]]:
    return json.loads(results.read_text(encoding="utf-8")) if results.exists() else []


def commit() -> str:
    """The short hash of the checkout, and whether the package differs from it."""
    git = ["git", "-C", str(HERE)]
    name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain", "../src"], capture_output=True, text=True).stdout.strip()
    return name + (" with changes" if changed else "")


def take_rows(source: Path, target: Path, count: int, *, test: bool = True) -> None:
    """Writes the first `count` training rows of a folder of parquet shards, and its test part, to a new folder."""
    if target.exists():
        return
    from pyarrow import Table, concat_tables, parquet

    shards: list[Table] = []
    for file in sorted(source.glob("train-*.parquet")):
        if sum(map(len, shards)) < count:
            shards.append(parquet.read_table(file))
    parts = target.with_suffix(".part")
    parts.mkdir(parents=True, exist_ok=True)
    rows = concat_tables(shards).slice(0, count)
    parquet.write_table(rows.replace_schema_metadata(_features(rows)), parts / "train-00000-of-00001.parquet")
    for file in sorted(source.glob("test-*.parquet")) if test else []:
        shutil.copy(file, parts)
    parts.rename(target)


def _features(rows: Any) -> dict[bytes, bytes]:
    """The class names; without the check sum of the whole shard."""
    return {key: value for key, value in rows.schema.metadata.items() if key == b"huggingface"}


def table(entries: list[dict[str, Any]], recipe: str | None = None) -> str:
    """A row for each cell, or those of a recipe: median and scores of the seeds, of the command and of its baseline."""
    entries = [entry for entry in entries if recipe in (None, CELLS[entry["cell"]].recipe)]
    lines = [
        "| data | command | test score: median (seeds) | CPU time | baseline, trained as long |",
        "|---|---|---|---|---|",
    ]
    for name, cell in CELLS.items():
        ours, theirs = ([e for e in entries if e["cell"] == name and e["kind"] == kind] for kind in ("rmt", "baseline"))
        if not ours:
            continue
        command = f"`rmt train {cell.recipe} --data {cell.data} --minutes {cell.minutes}`"
        seconds = f"{median(e['cpu_seconds'] for e in ours):.0f} s"
        baseline = f"{cell.baseline_title}: {_scores(theirs, cell.metric)}" if theirs else "–"
        lines.append(
            f"| {cell.title} | {command} | **{_scores(ours, cell.metric, '**')}{_last(ours)} | {seconds} | {baseline} |"
        )
    machines, commits = (sorted({e[key] for e in entries}) for key in ("cpu", "commit"))
    clock = (
        "; the core was shared, and minutes are those of its CPU"
        if any(e.get("clock") == "cpu" for e in entries)
        else ""
    )
    lines += ["", f"One core of {', '.join(machines)}, by `benchmarks/first_hour.py` at {', '.join(commits)}{clock}."]
    return "\n".join(lines)


def _scores(entries: list[dict[str, Any]], metric: str, end: str = "") -> str:
    scores = [entry["score"] for entry in sorted(entries, key=lambda entry: entry["seed"])]
    return f"{median(scores):.1f} % {metric}{end} ({', '.join(f'{score:.1f}' for score in scores)})"


def _last(entries: list[dict[str, Any]]) -> str:
    """The last epoch's median, where it was tested as well; the scores are those of the epoch chosen by validation."""
    tested = [e["last_epoch"]["raw"]["test"] for e in entries if "test" in e.get("last_epoch", {}).get("raw", {})]
    last = [test["top1"] for test in tested]
    return f"; last epoch {median(last):.1f} %" if last else ""


def plan_block(entries: list[dict[str, Any]], name: str) -> str:
    """The plan of the first seed of a cell, as it was printed."""
    plans = {entry["seed"]: entry["plan"] for entry in entries if (entry["cell"], entry["kind"]) == (name, "rmt")}
    return "\n".join(["```", *plans[min(plans)], "```"]) if plans else ""


def fill(file: Path, entries: list[dict[str, Any]]) -> None:
    """Replaces what stands between the marks of a file; plans that were not measured stay as they are."""
    text = file.read_text(encoding="utf-8")
    if not MARKED.search(text):
        sys.exit(f"{file}: no line <!-- first-hour --> with <!-- /first-hour --> after it")

    def content(match: re.Match[str]) -> str:
        found = plan_block(entries, match[2]) if match[2] else table(entries, match[3])
        return f"{match[1]}{found}\n{match[4]}" if found else match[0]

    write_text(file, MARKED.sub(content, text))


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    modes = parser.add_subparsers(dest="mode", required=True)
    run = modes.add_parser("run", help="measure what is missing")
    run.add_argument("--data", type=Path, required=True, help="folder with cifar10/ (parquet), bccd/ and camvid/")
    run.add_argument("--work", type=Path, default=Path("runs/first-hour"), help="folder for runs and their output")
    run.add_argument("--cells", nargs="+", choices=[*CELLS, "baselines"], default=[*CELLS, "baselines"])
    run.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    run.add_argument("--core", type=int, default=0, help="the core that everything runs on")
    run.add_argument("--cpu-clock", action="store_true", help="minutes of CPU time, where other work shares the core")
    run.add_argument("--minutes", type=float, default=0, help="other minutes, to try the script; needs --results")
    show = modes.add_parser("table", help="print the results as a table")
    show.add_argument("files", nargs="*", type=Path, help="files to write the table to")
    for mode in (run, show):
        mode.add_argument("--results", type=Path, default=HERE / "first-hour.json")
    args = parser.parse_args()
    if args.mode == "table":
        entries = read(args.results)
        print(table(entries))
        for file in args.files:
            fill(file, entries)
        return
    if args.minutes and args.results == HERE / "first-hour.json":
        parser.error("--minutes is for trying: name another file by --results")
    options = dict(core=args.core, minutes=args.minutes, cpu_clock=args.cpu_clock)
    bench = Bench(args.data, args.work, args.results, **options)
    asked = [name for name in CELLS if name in args.cells]
    for seed in args.seeds:
        for name in asked:
            bench.run(name, seed)
        if "baselines" in args.cells:
            for name in asked or CELLS:
                bench.run_baseline(name, seed)


if __name__ == "__main__":
    main()
