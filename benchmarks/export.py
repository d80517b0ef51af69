"""Time exported networks against PyTorch: RMT-S and Swin-T in OpenVINO and onnxruntime, one image, one thread.

    python benchmarks/export.py --output benchmarks/export.json

All cases are measured in turn in every round, so that they stay comparable while the machine's speed changes; medians
and ratios are printed. The weights are random: int8 is calibrated on noise, which says nothing about its accuracy.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

import rmt
from rmt.atomic import write_text
from rmt.benchmark.machine import describe
from rmt.export.formats import Name, Precision, format_named, fuses_attention
from rmt.export.graph import Graph, network_graph
from rmt.export.quantize import quantize
from rmt.inference.exported import open_exported

#: Format and precision of each file that is measured.
FILES = (("openvino", "fp32"), ("openvino", "bf16"), ("openvino", "int8"), ("onnx", "fp32"))


def open_file(model: Any, graph: Graph, form: Name, precision: Precision, folder: Path) -> Callable[[Tensor], object]:
    """Write a converted model, and open it as `rmt predict` does."""
    path = folder / f"{form}-{precision}{format_named(form).suffix}"
    format_named(form).save(model, "{}", path)
    exported = {"format": form, "precision": precision, "num_classes": 1000, "outputs": list(graph.outputs)}
    return open_exported(path, {"exported": {**exported, "input": {"shape": graph.input_shape}}})


def build_cases(size: int, files: list[tuple[Name, Precision]], folder: Path) -> dict[str, Callable[[Tensor], object]]:
    cases: dict[str, Callable[[Tensor], object]] = {}
    for name in ("rmt_small", "swin_tiny_patch4_window7_224"):
        torch.manual_seed(0)
        network = timm.create_model(name).eval()
        native: nn.Module = rmt.deploy(network) if name == "rmt_small" else network
        cases[f"{name} pytorch fp32"] = torch.inference_mode()(native.forward)
        (place := folder / name).mkdir()
        converted: dict[tuple[str, bool], Any] = {}
        for form, precision in files:
            started = time.monotonic()
            fused = fuses_attention(form, precision)
            graph = network_graph(network, (size, size), dynamic=False, fused=fused)
            if (form, fused) not in converted:
                converted[form, fused] = format_named(form).convert(graph, graph.capture(), precision, place)
            model = converted[form, fused]
            if precision == "int8":
                noise = [torch.randn(graph.shape[1:]) for _ in range(10)]
                model = quantize(model, noise, by_name=form == "onnx")
            cases[f"{name} {form} {precision}"] = open_file(model, graph, form, precision, place)
            print(f"{name} {form} {precision}: converted in {time.monotonic() - started:.0f} s", flush=True)
    return cases


def measure(cases: dict[str, Callable[[Tensor], object]], size: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each case in every round, after three that do not count."""
    image = torch.randn(1, 3, size, size)
    times: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds + 3):
        for name, run in cases.items():
            started = time.perf_counter()
            run(image)
            if number >= 3:
                times[name].append(1000 * (time.perf_counter() - started))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--size", type=int, default=224, help="side of the image in pixels")
    parser.add_argument("--files", nargs="*", default=[f"{f}:{p}" for f, p in FILES], help="FORMAT:PRECISION")
    options = parser.parse_args()
    torch.set_num_threads(1)
    files: Any = [(form, precision) for form, _, precision in (text.partition(":") for text in options.files)]
    with tempfile.TemporaryDirectory() as folder:
        cases = build_cases(options.size, files, Path(folder))
        times = measure(cases, options.size, options.rounds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    content = {
        "command": shlex.join(["python", *sys.argv]),
        "machine": describe("cpu"),
        "versions": {name: version(name) for name in ("openvino", "onnxruntime", "onnx", "nncf", "timm")},
        "image": [1, 3, options.size, options.size],
        "threads": 1,
        "milliseconds": {name: [round(value, 2) for value in values] for name, values in times.items()},
        "median": {name: round(value, 2) for name, value in medians.items()},
        "rmt_small_over_swin_tiny": {},
        "over_own_pytorch": {},
    }
    for name, value in medians.items():
        network, _, case = name.partition(" ")
        content["over_own_pytorch"][name] = round(value / medians[f"{network} pytorch fp32"], 3)
        if network == "rmt_small":
            content["rmt_small_over_swin_tiny"][case] = round(
                value / medians[f"swin_tiny_patch4_window7_224 {case}"], 3
            )
    for name, value in medians.items():
        print(f"{name:<46}{value:8.1f} ms   {content['over_own_pytorch'][name]:.2f} of PyTorch's")
    print("RMT-S over Swin-T:", content["rmt_small_over_swin_tiny"])
    if options.output:
        write_text(options.output, json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
