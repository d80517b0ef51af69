"""Collects finished runs of the quickstart into benchmarks/quickstart.json: the figures of the README.

    for seed in 0 1 2; do taskset -c 1 rmt train quickstart --seed $seed --output quick-$seed; done
    python benchmarks/quickstart.py quick-0 quick-1 quick-2 --cpu-seconds 169 165 167

CPU seconds are those of the whole command, as the shell's `time` prints them (user and sys together).
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

from rmt.atomic import write_text
from rmt.benchmark.machine import describe
from rmt.recipes import from_dict, quickstart

KEPT = ("seed", "model", "parameters", "images", "last", "best", "training_seconds", "images_per_s", "machine")
OWN = ("seed", "output", "device", "devices", "nodes", "strategy", "precision", "stream")  # of a run and its machine


def collect(folder: Path, cpu_seconds: float) -> dict[str, Any]:
    """The figures of one run. Raises ValueError for a run of another recipe."""
    recipe = from_dict(json.loads((folder / "recipe.json").read_text(encoding="utf-8")))
    plain = quickstart()
    for name, value in plain.as_dict().items():
        if name not in OWN and not plain.is_open(name) and getattr(recipe, name) != getattr(plain, name):
            raise ValueError(f"{folder}: {name} is {getattr(recipe, name)!r}, in the recipe {value!r}")
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return {"cpu_seconds": cpu_seconds, **{key: metrics[key] for key in KEPT}}


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--cpu-seconds", nargs="+", type=float, required=True, help="of each run")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("quickstart.json"))
    args = parser.parse_args()
    runs = [collect(*pair) for pair in zip(args.runs, args.cpu_seconds, strict=True)]
    content = {
        "command": "taskset -c 1 rmt train quickstart --seed N",
        "cpu": f"one core of {describe('cpu')['cpu']}, shared with other work",
        "median_test_top1_last_raw": median(run["last"]["raw"]["test"]["top1"] for run in runs),
        "runs": runs,
    }
    write_text(args.output, json.dumps(content, indent=1) + "\n")
    print(f"median {content['median_test_top1_last_raw']} %: {args.output}")


if __name__ == "__main__":
    main()
