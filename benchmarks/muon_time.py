"""Seconds of Muon's update on this machine: `python benchmarks/muon_time.py [--output benchmarks/muon.json]`.

For each network timm's optimizer and ours take a step in turn, with random gradients, on one thread; medians of the
rounds after the first.
"""

import argparse
import copy
import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import timm
import torch
from timm.optim import create_optimizer_v2

import rmt  # noqa: F401  registers its networks
from rmt.atomic import write_text
from rmt.benchmark.machine import describe
from rmt.training.muon import Muon, product_dtype

NETWORKS = ("rmt_nano", "rmt_micro", "mobilenetv3_small_100")
ROUNDS = 6
OPTIONS: dict[str, Any] = dict(opt="nmuon", lr=0.01, weight_decay=0.02, momentum=0.95)


def measure(name: str) -> dict[str, Any]:
    model = timm.create_model(name, num_classes=10)
    others = copy.deepcopy(model)
    sides = {
        "timm": (others, create_optimizer_v2(others, **OPTIONS)),
        "rmt": (model, Muon(create_optimizer_v2(model, **OPTIONS).param_groups)),
    }
    rounds: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(ROUNDS):
        for side, (network, optimizer) in sides.items():
            for weight in network.parameters():
                weight.grad = torch.randn_like(weight)
            began = time.perf_counter()
            optimizer.step()
            rounds[side].append(round(time.perf_counter() - began, 5))
    return {"network": name, "seconds": {side: median(found[1:]) for side, found in rounds.items()}, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    output = parser.parse_args().output
    torch.set_num_threads(1)
    results = [measure(name) for name in NETWORKS]
    machine, format = describe("cpu"), str(product_dtype(torch.zeros(1))).removeprefix("torch.")
    found = {"started": time.strftime("%Y-%m-%d %H:%M"), "machine": machine, "format": format, "results": results}
    for result in results:
        seconds = result["seconds"]
        print(f"{result['network']}: timm {seconds['timm']:.3f} s, {seconds['rmt']:.3f} s in {format}")
    if output:
        write_text(output, json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
