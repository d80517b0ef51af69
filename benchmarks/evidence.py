"""Ablations and peers on CIFAR-10: each cell of a table is one `rmt train` with its own options and seed.

    python benchmarks/evidence.py run --data CIFAR10 --tables ablations-1-percent --cores 0 1
    python benchmarks/evidence.py show

`run` trains what benchmarks/evidence/TABLE.json lacks, a cell per core at a time, and adds each result as soon as it is
there: an interrupted call is continued by the same call, and a cell that was killed by `rmt train --resume`. CIFAR10 is
a folder of parquet shards, train-*.parquet and test-*.parquet. Epochs are fixed beforehand, so other work on the
machine changes the seconds, not the scores. A score is the top-1 of the last epoch's raw weights on the 10,000 test
images, which nothing else reads; the learning rates of the peers are chosen on the images held out of train.

The peers train for equal CPU time, start and evaluation apart: two short runs of each give the seconds of an epoch.
`show` prints the tables of what is there: mean ± standard error, and for ablations the difference from the unchanged
network, paired by seed.
"""

import argparse
import csv
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from statistics import mean, stdev
from threading import Lock
from typing import Any

from filelock import FileLock
from first_hour import commit, take_rows

from rmt.atomic import write_text
from rmt.benchmark.machine import describe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "evidence"
TRAIN = "rmt train finetune --minutes 0 --workers 0"
SEEDS = (0, 1, 2)
TIMED = (2, 5)  # epochs of the two runs whose CPU seconds give those of an epoch

#: name of a row: (model, model_args, what it is)
ABLATIONS = {
    "masa": ("rmt_nano", "", "rmt_nano: decomposed MaSA, decay before the softmax, row-major phases, LCE, CPE"),
    "attention": ("rmt_nano", "decay=none", "attention without decay"),
    "decay-after-softmax": ("rmt_nano", "decay=paper", "the decay multiplies the result of the softmax"),
    "equation-5": ("rmt_nano", "phases=none,decay=paper", "Eq. 5: no phases, the decay after the softmax"),
    "no-phases": ("rmt_nano", "phases=none", "no rotary phases"),
    "axial-phases": ("rmt_nano", "phases=axial", "phases of x and y"),
    "attention-no-phases": ("rmt_nano", "decay=none,phases=none", "attention without decay and phases"),
    "full-stage1": ("rmt_nano", "decomposed=[false,true]", "attention over all pairs of tokens in stage 1"),
    "full-stage2": ("rmt_nano", "decomposed=[true,false]", "attention over all pairs of tokens in stage 2"),
    "full": ("rmt_nano", "decomposed=[false,false]", "attention over all pairs of tokens in both stages"),
    "full-attention": ("rmt_nano", "decomposed=[false,false],decay=none", "the same without decay"),
    "no-lce": ("rmt_nano", "lce=false", "no local context enhancement"),
    "no-cpe": ("rmt_nano", "cpe=false", "no conditional positional encoding"),
    "no-stem": ("rmt_nano", "conv_stem=false,pool_stem=false", "patches of 4×4 pixels in place of the stem"),
    "no-ffn-conv": ("rmt_nano", "ffn_conv=false", "no convolution in the feed-forward network"),
    "equal-decay": ("rmt_nano", "decay_ranges=[[4,4],[4,4]]", "one decay rate for all heads, the middle of the range"),
    "gate": ("rmt_nano", "gate=true", "RetNet's gate in place of the softmax"),
    "retention": ("rmt_nano", "attention=retention", "RetNet's retention, one direction of the row-major order"),
    "retention-bidirectional": ("rmt_nano", "attention=retention_bidirectional", "retention in both directions, Eq. 3"),
    "window": ("rmt_nano", "attention=window,window_size=4", "attention inside 4×4 windows, without decay"),
    "neighborhood": (
        "rmt_nano",
        "attention=neighborhood,window_size=3",
        "attention to the 3×3 tokens around each query, without decay",
    ),
    "deit": (
        "deit_tiny_patch16_224",
        "patch_size=4,embed_dim=128,depth=4,num_heads=4",
        "DeiT's design: 4 blocks of 128 channels",
    ),
    "deit-masa": ("rmt_deit_small", "depths=[4],dims=[128],num_heads=[4],patch_size=4", "the same with MaSA"),
    "swin": (
        "swin_tiny_patch4_window7_224",
        "window_size=4,embed_dim=64,depths=[2,2],num_heads=[2,4]",
        "Swin's design: 2 and 2 blocks of 64 and 128 channels",
    ),
    "swin-masa": (
        "rmt_swin_tiny",
        "depths=[2,2],dims=[64,128],num_heads=[2,4],mlp_ratios=[4,4],decomposed=[true,true],"
        "decay_ranges=[[2,6],[2,6]],layer_scales=[null,null]",
        "the same with MaSA",
    ),
}
PEERS = {
    "rmt": ("rmt_micro", "", "RMT"),
    "swin": (
        "swin_tiny_patch4_window7_224",
        "patch_size=2,window_size=4,embed_dim=40,depths=[2,2,4],num_heads=[2,4,8]",
        "Swin",
    ),
    "deit": ("deit_tiny_patch16_224", "patch_size=4,embed_dim=144,depth=6,num_heads=4", "DeiT"),
    "convnext": ("convnext_atto", "patch_size=2,depths=[2,2,4,2],dims=[28,56,112,224]", "ConvNeXt"),
    "resnet": ("resnet18", "channels=[24,48,96,192]", "ResNet"),
    "mambaout": ("mambaout_femto", "depths=[2,2,4,2],dims=[24,48,96,192]", "MambaOut"),
    "mobilenetv3": ("mobilenetv3_small_100", "", "MobileNetV3"),
    "mobilenetv4": ("mobilenetv4_conv_small_050", "", "MobileNetV4"),
}


@dataclass(frozen=True)
class Table:
    """Rows of networks, trained alike. `seconds` > 0: as many epochs as each runs in so much CPU time."""

    title: str
    rows: dict[str, tuple[str, str, str]]
    images: int
    epochs: int = 0
    seconds: int = 0
    options: str = ""
    rates: tuple[float, ...] = ()  # to choose from, by the images held out of train, in half of the time


MUON = "--image-size 32 --batch-size 96 --optimizer muon --lr 0.012"  # what rmt_nano is trained with
TABLES = {
    "ablations-1-percent": Table("500 training images, 40 epochs", ABLATIONS, 500, epochs=40, options=MUON),
    "ablations-10-percent": Table("5,000 training images, 20 epochs", ABLATIONS, 5000, epochs=20, options=MUON),
    "peers-32": Table(
        "10,000 training images at 32², 300 CPU seconds each",
        PEERS,
        10_000,
        seconds=300,
        options="--optimizer adamw --image-size 32",
        rates=(1e-3, 2e-3, 4e-3),
    ),
    "peers-64": Table(
        "10,000 training images enlarged to 64², 600 CPU seconds each",
        PEERS,
        10_000,
        seconds=600,
        options="--optimizer adamw --image-size 64",
        rates=(1e-3, 2e-3, 4e-3),
    ),
}


@dataclass
class Runner:
    """Runs cells in the folder `work`, where the data lie, on one core at a time."""

    data: Path
    work: Path
    results: Path
    cores: list[int]
    lock: Lock = field(default_factory=Lock)

    def run(self, name: str, seeds: tuple[int, ...]) -> None:
        """Trains every cell of a table that has no result."""
        table = TABLES[name]
        self.work.mkdir(parents=True, exist_ok=True)
        take_rows(self.data, self.work / f"cifar10-{table.images}", table.images)
        if table.seconds:
            timed = [(row, f"epochs {epochs}", epochs) for row in table.rows for epochs in TIMED]
            self.parallel(lambda core, row, kind, epochs: self.cell(name, row, kind, epochs, 1000, core), timed)
            half = [(row, f"rate {rate:g}", rate) for row in table.rows for rate in table.rates]
            self.parallel(
                lambda core, row, kind, rate: self.cell(
                    name, row, kind, self.epochs(name, row, 0.5), 1000, core, f"--lr {rate:g}"
                ),
                half,
            )
        rest = [(row, f"seed {seed}", seed) for seed in seeds for row in table.rows]
        self.parallel(lambda core, row, kind, seed: self.seed(name, row, kind, seed, core), rest)

    def parallel(self, call: Any, arguments: list[tuple[Any, ...]]) -> None:
        """Calls with each of the arguments, on whichever core is free."""
        free: Queue[int] = Queue()
        for core in self.cores:
            free.put(core)

        def one(values: tuple[Any, ...]) -> None:
            core = free.get()
            try:
                call(core, *values)
            finally:
                free.put(core)

        with ThreadPoolExecutor(len(self.cores)) as pool:
            for future in [pool.submit(one, values) for values in arguments]:
                future.result()

    def seed(self, name: str, row: str, kind: str, seed: int, core: int) -> None:
        table = TABLES[name]
        epochs, options = table.epochs, ""
        if table.seconds:
            found = {e["kind"]: e["val"] for e in read(self.results / f"{name}.json") if e["row"] == row}
            best = max(table.rates, key=lambda rate: found[f"rate {rate:g}"])
            epochs, options = self.epochs(name, row, 1.0), f"--lr {best:g}"
        self.cell(name, row, kind, epochs, seed, core, options)

    def epochs(self, name: str, row: str, share: float) -> int:
        """How many epochs fit into the time of the table, or into a share of it."""
        found = {e["kind"]: e["cpu_seconds"] for e in read(self.results / f"{name}.json") if e["row"] == row}
        short, long = TIMED
        seconds = (found[f"epochs {long}"] - found[f"epochs {short}"]) / (long - short)
        return max(2, round(TABLES[name].seconds * share / seconds))

    def cell(self, name: str, row: str, kind: str, epochs: int, seed: int, core: int, more: str = "") -> None:
        """One run, unless its result is there."""
        file = self.results / f"{name}.json"
        if any((e["row"], e["kind"]) == (row, kind) for e in read(file)):
            return
        table = TABLES[name]
        model, model_args, _ = table.rows[row]
        output = f"{name}.{row}.{kind}".replace(" ", "-")
        command = f"{TRAIN} --data cifar10-{table.images} --model {model}"
        command += f" --model-args {model_args}" if model_args else ""
        command = " ".join(filter(None, [command, table.options, more, f"--epochs {epochs} --seed {seed}"]))
        typed = f"{command} --output {output}"
        resumed = (self.work / output / "last.ckpt").exists()
        if resumed:
            typed = f"rmt train --resume {output}"
        print(f"taskset -c {core} {typed}", flush=True)
        start = time.monotonic()
        with (self.work / f"{output}.log").open("a") as log:
            executable = Path(sys.executable).parent / "rmt"
            process = subprocess.Popen(
                ["taskset", "-c", str(core), str(executable), *typed.split()[1:]],
                cwd=self.work,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            sys.exit(f"it failed; its output is in {self.work / output}.log")
        result = self.result(self.work / output) | {"command": command, "resumed": resumed}
        result |= {"cpu_seconds": _cpu(usage), "wall_seconds": round(time.monotonic() - start, 1)}
        self.add(file, {"row": row, "kind": kind, "seed": seed, "epochs": epochs, **result})

    def result(self, run: Path) -> dict[str, Any]:
        metrics = json.loads((run / "metrics.json").read_text())
        last = metrics["last"]["raw"]
        with (run / "metrics.csv").open() as file:
            epochs = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
        seconds = [float(row["seconds"]) for row in epochs]
        found = {"parameters": metrics["parameters"], "val": last["val"]["top1"], "test": last["test"]["top1"]}
        found["curve"] = [[round(s, 1), float(row["val_top1"])] for s, row in zip(seconds, epochs, strict=True)]
        return found

    def add(self, file: Path, entry: dict[str, Any]) -> None:
        """Appends a result to the file, which another process may be writing to as well."""
        machine = describe("cpu")
        entry |= {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit(), "cpu": machine["cpu"]}
        entry["versions"] = {name: version(name) for name in ("torch", "timm", "lightning")}
        file.parent.mkdir(parents=True, exist_ok=True)
        with self.lock, FileLock(self.work / "results.lock"):
            write_text(
                file, json.dumps([*read(file), entry], ensure_ascii=False).replace('}, {"row"', '},\n{"row"') + "\n"
            )
        print(f"{file.stem}, {entry['row']}, {entry['kind']}: test {entry['test']:.2f} %", flush=True)


def _cpu(usage: resource.struct_rusage) -> float:
    return round(usage.ru_utime + usage.ru_stime, 1)


def read(file: Path) -> list[dict[str, Any]]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def error(values: list[float]) -> float:
    """The standard error of the mean; NaN of a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def table_lines(name: str, entries: list[dict[str, Any]]) -> Iterator[str]:
    """The Markdown table of the results: mean ± standard error over the seeds."""
    table = TABLES[name]
    scores = {
        row: {e["seed"]: e["test"] for e in entries if e["row"] == row and e["kind"].startswith("seed")}
        for row in table.rows
    }
    paired = not table.seconds
    yield f"| {table.title} | parameters | test top-1 | " + ("difference | CPU s |" if paired else "epochs | CPU s |")
    yield "|---|---|---|---|---|"
    base = scores[next(iter(table.rows))]
    for row, (_, _, what) in table.rows.items():
        cells = [e for e in entries if e["row"] == row and e["kind"].startswith("seed")]
        if not cells:
            continue
        found = list(scores[row].values())
        more = str(cells[0]["epochs"])
        if paired:
            difference = [score - base[seed] for seed, score in scores[row].items() if seed in base]
            more = "–" if scores[row] is base else f"{mean(difference):+.2f} ± {error(difference):.2f}"
        seconds = mean(e["cpu_seconds"] for e in cells)
        yield (
            f"| {what} | {cells[0]['parameters'] / 1e6:.2f} M | {mean(found):.2f} ± {error(found):.2f} | {more} |"
            f" {seconds:.0f} |"
        )


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    modes = parser.add_subparsers(dest="mode", required=True)
    run = modes.add_parser("run", help="train what is missing")
    run.add_argument("--data", type=Path, required=True, help="CIFAR-10 as a folder of parquet shards")
    run.add_argument("--work", type=Path, default=Path("runs/evidence"), help="folder for runs and their output")
    run.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    run.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    run.add_argument("--cores", nargs="+", type=int, default=[0], help="cores to run on, one cell on each")
    show = modes.add_parser("show", help="print the tables")
    for mode in (run, show):
        mode.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.mode == "show":
        for name in TABLES:
            if entries := read(args.results / f"{name}.json"):
                print("\n".join(table_lines(name, entries)), "\n")
        return
    runner = Runner(args.data.resolve(), args.work.resolve(), args.results.resolve(), args.cores)
    for name in args.tables:
        runner.run(name, tuple(args.seeds))


if __name__ == "__main__":
    main()
