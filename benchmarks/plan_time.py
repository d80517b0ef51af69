"""How long a planned run takes, beside what its plan said, with other processes on the same core.

    python benchmarks/plan_time.py --data FOLDER --core 1    # cifar10/, bccd/, camvid/ in it; about half an hour
    python benchmarks/plan_time.py --table docs/training.md

Runs the three finetune recipes on one core, alone and beside one and two processes that never wait, and writes
`plan-time.json`: the seconds planned and taken, of the whole run and of an update, and what share of the core other
programs took meanwhile. A run is not recorded if that is more than --others, and what the file has already is not
measured again. `--table` prints the results as a Markdown table and writes it between the lines
`<!-- plan-time -->` and `<!-- /plan-time -->` of the files named.
"""

import argparse
import csv
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from first_hour import CPU_CLOCK, ROWS, commit, read, take_rows

from rmt.atomic import write_text
from rmt.benchmark.machine import describe

HERE = Path(__file__).resolve().parent
RUNS = {"cifar10-10k": ("finetune", 2), "bccd": ("finetune-detect", 3), "camvid": ("finetune-segment", 4)}
TIME = re.compile(r"time .* to start, .* for ([\d,]+) updates .* to finish: (?:(\d+):)?(\d+):(\d\d) in all")
MARKED = re.compile(r"(<!-- plan-time -->\n).*?(<!-- /plan-time -->)", re.DOTALL)
STEP = re.compile(r"measured ([\d.]+) (ms|s) a step")


def measure(work: Path, data: str, busy: int, core: int, *, cpu_clock: bool) -> dict[str, Any]:
    """Trains once beside `busy` processes on `core`, and returns what was planned and what it took."""
    recipe, minutes = RUNS[data]
    run = work / f"{data}-{busy}"
    shutil.rmtree(run, ignore_errors=True)
    command = ["rmt", "train", recipe, "--data", data, "--minutes", str(minutes), "--output", run.name]
    pinned = ["taskset", "-c", str(core)]
    loops = [subprocess.Popen([*pinned, sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        load, began, before, ours = os.getloadavg()[0], time.monotonic(), core_seconds(core), child_seconds()
        executable = [sys.executable, "-c", CPU_CLOCK] if cpu_clock else [str(Path(sys.executable).parent / "rmt")]
        done = subprocess.run([*pinned, *executable, *command[1:]], cwd=work, capture_output=True, text=True)
        wall, cpu, on_core = time.monotonic() - began, child_seconds() - ours, core_seconds(core) - before
        looped = sum(map(process_seconds, (loop.pid for loop in loops)))
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    said = done.stdout
    planned, step = TIME.search(said), STEP.search(said)
    assert planned and step, said
    hours, minute, second = (int(part or 0) for part in planned.groups()[1:])
    promised = 3600 * hours + 60 * minute + second
    return {
        "data": data,
        "busy": busy,
        "command": f"taskset -c {core} {' '.join(command)}",
        "planned_seconds": promised,
        "clock": "cpu" if cpu_clock else "wall",
        "taken_share": round((cpu if cpu_clock else wall) / promised, 3),
        "wall_seconds": round(wall, 1),
        "planned_step_seconds": float(step[1]) / (1000 if step[2] == "ms" else 1),
        "step_seconds": round(step_seconds(run), 4),
        "updates": int(planned[1].replace(",", "")),
        "cpu_seconds": round(cpu, 1),
        "others_share": round(max(on_core - cpu - looped, 0) / wall, 3),
        "load": round(load, 2),
    }


def step_seconds(run: Path) -> float:
    """The mean of an update's wall seconds, without evaluations; decoding in the first pass is part of it."""
    with (run / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "step"]
    epochs: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        epochs.setdefault(row["epoch"], []).append(row)
    updates = sum(int(part[-1]["step"]) - int(part[0]["step"]) for part in epochs.values())
    return sum(float(part[-1]["seconds"]) - float(part[0]["seconds"]) for part in epochs.values()) / max(updates, 1)


def core_seconds(core: int) -> float:
    """Seconds that a core has worked since the machine started."""
    line = next(x for x in Path("/proc/stat").read_text().splitlines() if x.startswith(f"cpu{core} "))
    user, nice, system, _, _, interrupts, soft = map(int, line.split()[1:8])
    return (user + nice + system + interrupts + soft) / os.sysconf("SC_CLK_TCK")


def process_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def child_seconds() -> float:
    """Seconds of the ended child processes, which are those of the runs until the busy ones have been killed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(entries: list[dict[str, Any]]) -> str:
    """A row for each command, a column for each number of busy processes: taken ÷ planned, and the seconds planned."""
    if not entries:
        return "Not measured yet."
    numbers = sorted({entry["busy"] for entry in entries})
    titles = {0: "alone", 1: "beside one busy process"}
    lines = ["| command | " + " | ".join(titles.get(busy, f"beside {busy}") for busy in numbers) + " |"]
    lines.append("|---" * (1 + len(numbers)) + "|")
    for data, (recipe, minutes) in RUNS.items():
        found = {entry["busy"]: entry for entry in entries if entry["data"] == data}
        cells = [
            f"{found[busy]['taken_share']:.2f} ({found[busy]['planned_seconds']} s)" if busy in found else "–"
            for busy in numbers
        ]
        if found:
            lines.append(f"| `rmt train {recipe} --data {data} --minutes {minutes}` | " + " | ".join(cells) + " |")
    machines, commits = (", ".join(sorted({entry[key] for entry in entries})) for key in ("cpu", "commit"))
    clock = "; minutes are those of the CPU" if any(entry["clock"] == "cpu" for entry in entries) else ""
    lines += ["", f"Seconds taken ÷ planned (planned) on one core of {machines}, at {commits}{clock}."]
    return "\n".join(lines)


def fill(file: Path, text: str) -> None:
    """Replaces what stands between the marks of a file."""
    page = file.read_text(encoding="utf-8")
    if not MARKED.search(page):
        sys.exit(f"{file}: no line <!-- plan-time --> with <!-- /plan-time --> after it")
    write_text(file, MARKED.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--table", type=Path, nargs="+", help="files to write the table to, instead of measuring")
    mode.add_argument("--data", type=Path, help="folder with cifar10/ (parquet), bccd/ and camvid/")
    parser.add_argument("--work", type=Path, default=Path("runs/plan-time"), help="folder for the runs")
    parser.add_argument("--core", type=int, default=0, help="the core that everything runs on")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="numbers of processes beside the run")
    parser.add_argument(
        "--cpu-clock", action="store_true", help="minutes of CPU time, where other work shares the core"
    )
    parser.add_argument("--others", type=float, default=0.1, help="largest share of the core for other programs")
    parser.add_argument("--results", type=Path, default=HERE / "plan-time.json")
    args = parser.parse_args()
    if args.table:
        print(text := table(read(args.results)))
        for file in args.table:
            fill(file, text)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    for name in ("bccd", "camvid"):
        if not (args.work / name).exists():
            (args.work / name).symlink_to((args.data / name).resolve(), target_is_directory=True)
    take_rows(args.data / "cifar10", args.work / "cifar10-10k", ROWS)
    for busy in args.busy:
        for name in RUNS:
            if any((entry["data"], entry["busy"]) == (name, busy) for entry in read(args.results)):
                continue
            result = measure(args.work, name, busy, args.core, cpu_clock=args.cpu_clock)
            if result["others_share"] > args.others and not args.cpu_clock:
                print(f"{name}, {busy} busy: others took {result['others_share']:.0%} of the core; run this again")
                continue
            result |= {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit(), "cpu": describe("cpu")["cpu"]}
            write_text(args.results, json.dumps([*read(args.results), result], indent=1) + "\n")
            print(
                f"{name}, {busy} busy: {result['taken_share']:.2f} of the {result['planned_seconds']} s planned",
                flush=True,
            )


if __name__ == "__main__":
    main()
