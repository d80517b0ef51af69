"""Peak memory of a detector's forward pass over one image on the CPU: the figures of docs/detection.md.

    RMT_BACKEND=plain python scripts/measure_detector_memory.py --output benchmarks/detector-memory-plain.json
    python scripts/measure_detector_memory.py --output benchmarks/detector-memory.json

In bytes over what is in use before the pass: without weights and image, with what the pass returns. Weights are random,
which is the worst case, because there are then 100 detections.
"""

import argparse
import json
import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import rmt
from rmt.benchmark.machine import describe
from rmt.benchmark.memory import resident_peak


def measure(part: str, head: str, backbone: str, height: int, width: int) -> float:
    """Peak memory in MiB of the whole pass, or of the backbone with its norms only."""
    torch.manual_seed(0)
    model = rmt.detector(head, backbone, num_classes=80).eval()
    image = torch.rand(3, height, width)
    with torch.inference_mode():
        batch = model.transform([image])[0].tensors  # padded
        model.pyramid(batch[..., :64, :64])  # compiles kernels
        peak = resident_peak(lambda: model([image]) if part == "whole" else model.pyramid(batch))
    if peak is None:
        raise SystemExit("this system does not report the memory of a process")
    return round(peak / 2**20, 1)


def measure_in_new_process(*arguments: Any) -> float:
    """`measure` in a new process: memory freed by an earlier pass would hide what a later one allocates."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--head", default="mask_rcnn")
    parser.add_argument("--backbone", default="rmt_tiny")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 1333), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = {
        "command": " ".join(["python", *sys.argv]),
        "backend": os.environ.get("RMT_BACKEND", "by the rule"),
        "head": arguments.head,
        "backbone": arguments.backbone,
        "size": list(arguments.size),
        "peak_mib": {
            part: measure_in_new_process(part, arguments.head, arguments.backbone, *arguments.size)
            for part in ("whole", "backbone")
        },
        "machine": describe("cpu"),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
