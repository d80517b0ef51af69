"""CPU seconds from `rmt train quickstart` to the end of its first step, and which library takes them at import.

    python benchmarks/start_time.py benchmarks/start-time.json

Each library is imported after those before it, in new processes, as a command does it (without garbage collection) and
with garbage collection. What a library imports itself counts for it, unless an earlier one has it already.
"""

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

ROUNDS = 3
LIBRARIES = {
    "tyro": "tyro",
    "torch": "torch",
    "torchvision (torch._dynamo with it)": "torchvision",
    "timm": "timm",
    "torchmetrics (SciPy and Matplotlib with it)": "torchmetrics",
    "Lightning": "lightning.pytorch",
    "PyArrow": "pyarrow",
    "rmt": "rmt.tasks.classify",
}


def import_each() -> None:
    """In a process of its own: prints the CPU seconds of each import."""
    if sys.argv[2] == "without":
        gc.disable()
    seconds = {"interpreter": time.process_time()}
    for label, name in LIBRARIES.items():
        before = time.process_time()
        import_module(name)
        seconds[label] = time.process_time() - before
    print(json.dumps(seconds))


def first_step() -> None:
    """In a process of its own: prints the CPU seconds until the first weight update of the quickstart."""
    from rmt.commands.cli import main
    from rmt.commands.libraries import import_quickly

    with import_quickly():
        from rmt.training.module import TrainingModule

    update = TrainingModule.optimizer_step

    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        update(self, *args, **kwargs)
        print("\n" + json.dumps(time.process_time()), flush=True)
        os._exit(0)

    TrainingModule.optimizer_step = stop  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        main(["train", "quickstart", "--workers", "0", "--output", f"{folder}/run"])


def measure(*args: str) -> Any:
    """What a new process with these arguments prints in its last line."""
    command = [sys.executable, __file__, *args]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def main() -> None:
    rounds: dict[str, list[Any]] = {"without": [], "with": [], "first step": []}
    for _ in range(ROUNDS):
        rounds["without"].append(measure("--imports", "without"))
        rounds["with"].append(measure("--imports", "with"))
        rounds["first step"].append(measure("--first-step"))
    imports = {
        label: {kind: round(median(seconds[label] for seconds in rounds[kind]), 2) for kind in ("without", "with")}
        for label in rounds["with"][0]
    }
    import torch

    from rmt.benchmark.machine import describe

    torch.set_num_threads(1)
    result = {
        "command": "python benchmarks/start_time.py benchmarks/start-time.json",
        "unit": "CPU seconds of one process, medians; imports with and without garbage collection",
        "machine": describe("cpu"),
        "first_step": round(median(rounds["first step"]), 2),
        "imports": imports,
        "rounds": rounds,
    }
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    {"--imports": import_each, "--first-step": first_step}.get(sys.argv[1], main)()
