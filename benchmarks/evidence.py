"""Ablations, peers and dense tasks on public photographs: each cell of a table is one training run.

    python benchmarks/evidence.py run --data FOLDER --tables ablations-1-percent --cores 0 1
    python benchmarks/evidence.py run --data FOLDER --gpus 0 1 2 3     # --gpus 0 0: two cells at a time on one GPU
    python benchmarks/evidence.py sizes --data FOLDER     # networks of ablations-10-percent on images of other sizes
    python benchmarks/evidence.py page docs/evidence.md

`run` trains what benchmarks/evidence/TABLE.json lacks, one cell on each core or GPU at a time, and adds each result as
soon as it is there: an interrupted call is continued by the same call, and a cell that was killed by `rmt train
--resume`. Runs that other tables begin with are trained again on another machine. FOLDER has cifar10/ (parquet shards),
camvid/ and bccd/. The tables are in `evidence_tables.py`. Epochs are fixed beforehand, so other work on the machine
changes the seconds, not the scores. A score is that of the last epoch's raw weights on the test part, which nothing
else reads; learning rates are chosen on images held out of train. Where a table has a time for all networks, their
training steps are measured first, in turn (`step_times.py`); nothing else should run on the machine then.

`page` writes the tables and plots of what is there into a page, between `<!-- evidence: TABLE -->` and
`<!-- /evidence -->`; without a page it prints them.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from queue import Queue
from threading import Lock
from typing import Any

import evidence_page
from evidence_plots import cpu_seconds, epoch_seconds, seeds
from evidence_tables import SIDES, SIZES, TABLES, WEIGHTS, Table
from filelock import FileLock
from first_hour import commit, read, run_timed, take_rows

from rmt.atomic import write_text
from rmt.benchmark.machine import describe

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "evidence"
CELL = ("row", "kind", "seed", "side")  # what tells a result from the others of its table
TRIAL = 1 / 3  # of a table's time, for each learning rate to choose from


@dataclass(frozen=True)
class Place:
    """Where a cell runs: one core, or one GPU and some processes that load its images."""

    core: int | None = None
    gpu: int | None = None
    workers: int = 0

    @property
    def prefix(self) -> list[str]:
        return [] if self.core is None else ["taskset", "-c", str(self.core)]

    @property
    def environment(self) -> dict[str, str]:
        if self.gpu is None:
            return {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": str(self.gpu)}


@dataclass
class Runner:
    """Runs cells in the folder `work`, where the data are linked."""

    data: Path
    work: Path
    results: Path
    places: list[Place]
    lock: Lock = field(default_factory=Lock)

    def run(self, name: str, seeds: list[int] | None, rows: list[str] | None) -> None:
        """Trains every cell of a table that has no result."""
        table = TABLES[name]
        self.prepare(table)
        chosen = [row for row in table.rows if not rows or row in rows]
        if any(WEIGHTS in table.rows[row].options for row in chosen):
            self.run(WEIGHTS.partition(".")[0], None, None)
        if table.seconds:
            self.steps(name, chosen)
            self.parallel(self.rate, [(name, row, rate) for row in chosen for rate in table.rates])
            self.parallel(self.enclose, [(name, row) for row in chosen if table.rates])
        kept = [seed for seed in table.seeds if seeds is None or seed in seeds]
        self.parallel(self.seed, [(name, row, seed) for seed in kept for row in chosen if table.rows[row].model])
        self.parallel(self.baseline, [(name, row, seed) for seed in kept for row in chosen if table.rows[row].baseline])

    def prepare(self, table: Table) -> None:
        """Links the data of a table, or takes the first rows of CIFAR-10."""
        self.work.mkdir(parents=True, exist_ok=True)
        if table.images:
            take_rows(self.data / "cifar10", self.work / table.data, table.images, test=table.part == "test")
            if table.rates:
                take_rows(self.data / "cifar10", self.work / table.training_data, table.images, test=False)
        elif not (self.work / table.data).exists():
            (self.work / table.data).symlink_to((self.data / table.data).resolve(), target_is_directory=True)

    def parallel(self, call: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
        """Calls with each of the arguments and whichever place is free."""
        free: Queue[Place] = Queue()
        for place in self.places:
            free.put(place)

        def one(values: tuple[Any, ...]) -> None:
            place = free.get()
            try:
                call(place, *values)
            finally:
                free.put(place)

        with ThreadPoolExecutor(len(self.places)) as pool:
            for future in [pool.submit(one, values) for values in arguments]:
                future.result()

    def steps(self, name: str, rows: list[str]) -> None:
        """Measures a training step of each row that has no such result."""
        lacking = [row for row in rows if not any(e["kind"] == "step" for e in self.entries(name, row))]
        if lacking:
            output = f"{name}.steps"
            self.call(self.places[0], f"python step_times.py {name} {output}.json {' '.join(lacking)}", output)
            for row, found in json.loads((self.work / f"{output}.json").read_text()).items():
                self.add(name, {"row": row, "kind": "step", **found})

    def rate(self, place: Place, name: str, row: str, rate: float) -> None:
        self.cell(place, name, row, f"rate {rate:g}", self.epochs(name, row, TRIAL), 1000, f"--lr {rate:g}")

    def enclose(self, place: Place, name: str, row: str) -> None:
        """Tries further learning rates, by factors of two, until the best lies between two others."""
        while tried := self.tried(name, row):
            best = self.best_rate(name, row)
            if min(tried) < best < max(tried):
                return
            self.rate(place, name, row, best / 2 if best == min(tried) else best * 2)

    def tried(self, name: str, row: str) -> dict[float, float]:
        """What each learning rate reached on the held-out images."""
        found = {e["kind"]: e["val"] for e in self.entries(name, row) if e["kind"].startswith("rate")}
        return {float(kind.split()[1]): found[kind] for kind in found}

    def best_rate(self, name: str, row: str) -> float:
        """The learning rate that reached most, the lowest of equals; 0 if none was tried."""
        tried = self.tried(name, row)
        return max(sorted(tried), key=lambda rate: tried[rate], default=0.0)

    def seed(self, place: Place, name: str, row: str, seed: int) -> None:
        table, options = TABLES[name], ""
        epochs = table.epochs
        if table.seconds:
            chosen_in = table.rates_of or name
            if not (best := self.best_rate(chosen_in, row)):
                sys.exit(f"{name}: the learning rate of {row} is chosen in {chosen_in}; run that table first")
            epochs, options = self.epochs(name, row, 1.0), f"--lr {best:g}"
        self.cell(place, name, row, f"seed {seed}", epochs, seed, options)

    def epochs(self, name: str, row: str, share: float) -> int:
        """How many epochs fit into the time of the table, or into a share of it."""
        return max(1, round(TABLES[name].seconds * share / epoch_seconds(self.entries(name, row), row)))

    def cell(self, place: Place, name: str, row: str, kind: str, epochs: int, seed: int, more: str = "") -> None:
        """One training run, unless its result is there, and its weights where other tables need them.

        A result with another learning rate (`more`) than the best one is replaced: further rates were tried since.
        """
        table = TABLES[name]
        output = f"{name}.{row}.{kind}{more.replace('--', '.')}".replace(" ", "-")
        known = any(e["kind"] == kind and f"{more} --seed" in e["command"] for e in self.entries(name, row))
        if known and (not table.kept or (self.work / output / "last.safetensors").exists()):
            return
        part, data = ("val", table.training_data) if kind.startswith("rate") else (table.part, table.data)
        command = table.command(row, epochs, seed, more, data)
        resumed = (self.work / output / "last.ckpt").exists()
        typed = f"rmt train --resume {output}" if resumed else f"{command} --output {output}"
        if place.workers:  # they make the same batches
            typed += f" --workers {place.workers}"
        used = self.call(place, typed, output)
        if known:
            return
        result = {"command": command, "resumed": resumed, **self.scores(place, table, output, part), **used}
        self.add(name, {"row": row, "kind": kind, "seed": seed, "epochs": epochs, **result})

    def baseline(self, place: Place, name: str, row: str, seed: int) -> None:
        """A network of `baselines.py`, for the CPU seconds of the table's first row with this seed.

        Seeds may have run on processors of other speeds, so the mean of all is taken only if this run was resumed.
        """
        if any(e["kind"] == f"seed {seed}" for e in self.entries(name, row)):
            return
        table = TABLES[name]
        first = next(iter(table.rows))
        runs = seeds(self.entries(name, first), first)
        seconds = cpu_seconds(entry for entry in runs.values() if entry["seed"] == seed) or cpu_seconds(runs.values())
        if seconds is None:
            sys.exit(
                f"{name}: each run of {first} was resumed, so the time for {row} is unknown; run another seed of it"
            )
        output = f"{name}.{row}.seed-{seed}"
        command = f"python baselines.py {table.rows[row].baseline} --data {table.data} --cpu-seconds {seconds:.0f}"
        used = self.call(place, f"{command} --seed {seed} --output {output}.json", output)
        found = json.loads((self.work / f"{output}.json").read_text())
        entry = {"row": row, "kind": f"seed {seed}", "seed": seed, "command": command, "test": found["score"]}
        self.add(name, entry | {key: found[key] for key in ("parameters", "images_seen")} | used)

    def call(self, place: Place, typed: str, output: str) -> dict[str, float]:
        """Runs a command of this environment there, its output into a file; ends the program if it fails."""
        print(" ".join([*place.prefix, typed]), flush=True)
        program, *arguments = typed.split()
        if program == "python":
            arguments[0] = str(HERE / arguments[0])
        command = [*place.prefix, str(Path(sys.executable).parent / program), *arguments]
        with (self.work / f"{output}.log").open("a") as log:
            return run_timed(command, log, env=os.environ | place.environment)

    def scores(self, place: Place, table: Table, output: str, part: str) -> dict[str, Any]:
        """What the run reached, in percent: on the held-out images, and on the test part if `part` is "test"."""
        metrics = json.loads((self.work / output / "metrics.json").read_text())
        last, found = metrics["last"]["raw"], {"parameters": metrics["parameters"]}
        if part == "val":
            name = {"finetune": "top1", "finetune-segment": "miou", "finetune-detect": "box_ap50"}[table.recipe]
            return found | {"val": round(last["val"][name], 2)}
        if table.recipe == "finetune":
            with (self.work / output / "metrics.csv").open() as file:
                epochs = [row for row in csv.DictReader(file) if row["kind"] == "epoch"]
            curve = [[round(float(row["seconds"]), 1), float(row["val_top1"])] for row in epochs]
            return found | {"val": last["val"]["top1"], "test": last["test"]["top1"], "curve": curve}
        evaluate = f"rmt evaluate {output}/last.safetensors --data {table.data} --split test"
        self.call(place, f"{evaluate} --output {output}.test.json", f"{output}.test")
        test = json.loads((self.work / f"{output}.test.json").read_text())
        if table.recipe == "finetune-segment":
            return found | {"test": round(test["miou"], 2)}
        return found | {"test": round(100 * test["figures"]["box"]["ap50"], 2)}

    def sizes(self, images: int) -> None:
        """Tests the runs of some ablations on test images enlarged or reduced to other sides."""
        import torch
        from baselines import cifar, normalise

        import rmt
        from rmt.data.sets import evenly_spread

        name = "ablations-10-percent"
        pictures, labels = cifar(self.data / "cifar10", "test")
        chosen = evenly_spread(len(labels), images)  # they are sorted by class
        pictures, labels = pictures[chosen], labels[chosen]
        done = {(e["row"], e["seed"], *e["side"]) for e in read(self.results / "sizes.json")}
        for row in SIZES:
            for entry in self.entries(name, row):
                run = self.work / f"{name}.{row}.seed-{entry['seed']}"
                if not (run / "last.safetensors").exists():
                    print(f"{run.name} is not in {self.work}, so it is left out", flush=True)
                    continue
                for side in SIDES:
                    if (row, entry["seed"], *side) in done:
                        continue
                    network = rmt.load(str(run / "last.safetensors")).model.eval()
                    with torch.no_grad():
                        resized = torch.nn.functional.interpolate(
                            pictures.float(), side, mode="bicubic", antialias=True
                        ).clamp(0, 255)
                        found = [network(normalise(part)).argmax(1) for part in resized.split(250)]
                    right = float((torch.cat(found) == labels).float().mean())
                    self.add("sizes", {"row": row, "seed": entry["seed"], "side": side, "test": round(100 * right, 2)})

    def entries(self, name: str, row: str) -> list[dict[str, Any]]:
        return [entry for entry in read(self.results / f"{name}.json") if entry["row"] == row]

    def add(self, name: str, entry: dict[str, Any]) -> None:
        """Puts a result into the file in place of an older one; another process may be writing to the file, too."""
        machine = describe("cuda" if any(place.gpu is not None for place in self.places) else "cpu")
        entry |= {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit()}
        entry |= {key: machine[key] for key in ("cpu", "gpu") if key in machine}
        entry["versions"] = {name: version(name) for name in ("torch", "timm", "lightning")}
        file = self.results / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with self.lock, FileLock(self.work / "results.lock"):
            older = [e for e in read(file) if any(e.get(key) != entry.get(key) for key in CELL)]
            lines = [json.dumps(e, ensure_ascii=False) for e in [*older, entry]]
            write_text(file, "[\n" + ",\n".join(lines) + "\n]\n")
        score = entry.get("test", entry.get("val"))
        found = f"{1000 * entry['step_seconds']:.1f} ms" if score is None else f"{score:.2f} %"
        print(f"{name}, {entry['row']}, {entry.get('kind', entry.get('side'))}: {found}", flush=True)


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    modes = parser.add_subparsers(dest="mode", required=True)
    run = modes.add_parser("run", help="train what is missing")
    run.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES))
    run.add_argument("--rows", nargs="+", help="only these rows of the tables")
    run.add_argument("--seeds", nargs="+", type=int, help="only these seeds")
    where = run.add_mutually_exclusive_group()
    where.add_argument("--cores", nargs="+", type=int, default=[0], help="cores to run on, one cell on each")
    where.add_argument("--gpus", nargs="+", type=int, help="GPUs to run on, one cell at a time for each number")
    sizes = modes.add_parser("sizes", help="test trained networks on images of other sizes")
    sizes.add_argument("--images", type=int, default=1000, help="so many of the test images")
    page = modes.add_parser("page", help="write the tables and plots of what is there")
    page.add_argument("files", nargs="*", type=Path)
    for mode in (run, sizes):
        mode.add_argument("--data", type=Path, required=True, help="folder with cifar10/, camvid/ and bccd/")
        mode.add_argument("--work", type=Path, default=Path("runs/evidence"), help="folder for runs and their output")
    for mode in (run, sizes, page):
        mode.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.mode == "page":
        evidence_page.write(args.results, args.files)
        return
    gpus = getattr(args, "gpus", None)
    if gpus:
        workers = max(len(os.sched_getaffinity(0)) // len(gpus) - 1, 0)
        places = [Place(gpu=gpu, workers=workers) for gpu in gpus]
    else:
        places = [Place(core) for core in getattr(args, "cores", [0])]
    runner = Runner(args.data.resolve(), args.work.resolve(), args.results.resolve(), places)
    if args.mode == "sizes":
        runner.sizes(args.images)
        return
    for name in args.tables:
        runner.run(name, args.seeds, args.rows)


if __name__ == "__main__":
    main()
