"""Compare `rmt predict` and `rmt embed` over many small images with the network alone.

    python benchmarks/bulk.py --data cifar10/train-00000-of-00002.parquet --output benchmarks/bulk.json

In each round, in turn: the network in a loop on one batch, and the commands' own function from the images to a whole
parquet file, each with the same number of images per batch. Loading the network counts for neither. The result has the
medians and the ratio of images per second, in time and in time of the processors.
"""

import argparse
import json
import os
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import rmt
from rmt.atomic import write_text
from rmt.benchmark.machine import describe
from rmt.data.sources.collection import Collection, open_collection
from rmt.inference.bulk.job import Report, write_answers
from rmt.inference.bulk.work import Embedding, Prediction, Work


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """The time, and the time of all processors with that of ended child processes."""
    before, started = os.times(), time.monotonic()
    function()
    passed, after = time.monotonic() - started, os.times()
    return passed, sum(after[:4]) - sum(before[:4])


class Part(Collection):
    """The first images of a collection."""

    def __init__(self, whole: Collection, most: int) -> None:
        self.__dict__.update(whole.__dict__)
        self.most = min(most, len(whole))

    def __len__(self) -> int:
        return self.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="images, as rmt predict takes them")
    parser.add_argument("--network", default="rmt_micro")
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    images = Part(open_collection([options.data]), options.images)
    predictor = rmt.load(options.network, device=options.device)
    transform = predictor.transform()
    batch = predictor.collate([transform(images.load(i)) for i in range(options.batch_size)])
    (pixels,) = predictor.normalized(batch)
    common = {
        "checkpoint": Path(options.network),
        "load_options": {"device": options.device},
        "batch_size": options.batch_size,
        "workers": options.workers,
    }
    works: dict[str, Work] = {"predict": Prediction(**common), "embed": Embedding(**common)}

    def network_alone() -> None:
        for _ in range(0, len(images), options.batch_size):
            predictor.runtime(pixels)
        if options.device == "cuda":
            torch.cuda.synchronize()

    network_alone()
    rates: dict[str, list[float]] = {name: [] for name in ("network", *works)}
    processors: dict[str, list[float]] = {name: [] for name in rates}

    def add(name: str, passed: float, used: float) -> None:
        rates[name].append(len(images) / passed)
        processors[name].append(1e3 * used / len(images))

    for _ in range(options.rounds):
        add("network", *seconds(network_alone))
        for name, work in works.items():
            with tempfile.TemporaryDirectory() as folder:
                output = Path(folder) / "x.parquet"
                _, loading = seconds(work.start)
                reports: list[Report] = []
                _, used = seconds(lambda w=work, to=output, r=reports: r.append(write_answers(w, images, to)))
                add(name, reports[0].seconds, used - loading)
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe(options.device),
        "threads": torch.get_num_threads(),
        "images_per_s": {name: round(statistics.median(found), 1) for name, found in rates.items()},
        "processor_ms_per_image": {name: round(statistics.median(found), 3) for name, found in processors.items()},
        "over_network": {
            name: round(statistics.median(a / b for a, b in zip(rates[name], rates["network"], strict=True)), 3)
            for name in works
        },
    }
    write_text(options.output, json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
