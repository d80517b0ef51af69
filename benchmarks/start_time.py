"""CPU seconds and memory of `rmt train quickstart` to the end of its first step, of each import, and of a prediction.

    python benchmarks/start_time.py benchmarks/start-time.json

Each library is imported after those before it, in new processes, as a command does it (without garbage collection) and
with garbage collection. What a library imports itself counts for it, unless an earlier one has it already. Memory is
the largest resident size of the process so far. The prediction is `rmt predict` of one photo by the network in the
package.
"""

import gc
import json
import os
import resource
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
    """In a process of its own: prints the CPU seconds of each import, and the memory after it."""
    if sys.argv[2] == "without":
        gc.disable()
    used = {"interpreter": {"seconds": time.process_time(), "peak_mb": peak_mb()}}
    for label, name in LIBRARIES.items():
        before = time.process_time()
        import_module(name)
        used[label] = {"seconds": time.process_time() - before, "peak_mb": peak_mb()}
    print(json.dumps(used))


def peak_mb() -> int:
    """The largest resident size of this process so far, in MB of 1024² bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def predict() -> None:
    """In a process of its own: prints the CPU seconds and the memory of a command that classifies one photo."""
    from PIL import Image

    from rmt.commands.cli import main

    with tempfile.TemporaryDirectory() as folder:
        Image.linear_gradient("L").save(f"{folder}/photo.png")
        main(["predict", "rmt_micro", f"{folder}/photo.png", "--device", "cpu"])
    print(json.dumps({"seconds": time.process_time(), "peak_mb": peak_mb()}))


def first_step() -> None:
    """In a process of its own: prints the CPU seconds and the memory until the quickstart's first weight update."""
    from rmt.commands.cli import main
    from rmt.commands.libraries import import_quickly

    with import_quickly():
        from rmt.training.module import TrainingModule

    update = TrainingModule.optimizer_step

    def stop(self: Any, *args: Any, **kwargs: Any) -> None:
        update(self, *args, **kwargs)
        print("\n" + json.dumps({"seconds": time.process_time(), "peak_mb": peak_mb()}), flush=True)
        os._exit(0)

    TrainingModule.optimizer_step = stop  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        main(["train", "quickstart", "--workers", "0", "--output", f"{folder}/run"])


def measure(*args: str) -> Any:
    """What a new process with these arguments prints in its last line."""
    command = [sys.executable, __file__, *args]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def medians(found: list[dict[str, float]]) -> dict[str, float]:
    return {key: round(median(values[key] for values in found), 2) for key in found[0]}


def main() -> None:
    rounds: dict[str, list[Any]] = {"without": [], "with": [], "first step": [], "predict": []}
    for _ in range(ROUNDS):
        rounds["without"].append(measure("--imports", "without"))
        rounds["with"].append(measure("--imports", "with"))
        rounds["first step"].append(measure("--first-step"))
        rounds["predict"].append(measure("--predict"))
    imports = {}
    for label in rounds["with"][0]:
        kinds = {kind: medians([used[label] for used in rounds[kind]]) for kind in ("without", "with")}
        imports[label] = {kind: values["seconds"] for kind, values in kinds.items()}
        imports[label]["peak_mb"] = kinds["without"]["peak_mb"]
    import torch

    from rmt.benchmark.machine import describe

    torch.set_num_threads(1)
    result = {
        "command": "python benchmarks/start_time.py benchmarks/start-time.json",
        "unit": "CPU seconds of one process, its largest resident size so far in MB; medians; imports with and without "
        "garbage collection",
        "machine": describe("cpu"),
        "first_step": medians(rounds["first step"]),
        "predict": medians(rounds["predict"]),
        "imports": imports,
        "rounds": rounds,
    }
    Path(sys.argv[1]).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    {"--imports": import_each, "--first-step": first_step, "--predict": predict}.get(sys.argv[1], main)()
