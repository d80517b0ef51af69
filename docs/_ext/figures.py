"""Numbers of the pages that are read from the committed results when the site is built.

`SUBSTITUTIONS` are the names that a page writes as `{{ name }}`; the directive `peers` is a table. (The tables that are
also read in the checkout are written into the pages by the programs that measure them, and held to the results by
tests.)
"""

import json
from collections.abc import Iterator
from typing import Any

from generated_reference import BENCHMARKS, FromCode
from sphinx.application import Sphinx

from rmt.benchmark.published import PUBLISHED


def read(name: str) -> Any:
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))


def entry(name: str, **which: Any) -> dict[str, Any]:
    """The one result of a run of `rmt bench` that has these values."""
    (found,) = [row for row in read(name)["results"] if all(row[key] == value for key, value in which.items())]
    return found


def microseconds_per_pixel(side: int) -> str:
    row = entry("cpu-pixels", model="rmt_small", image_size=side, tolerance=0.0)
    return f"{row['seconds']['median'] * 1e6 / side**2:.1f}"


def gains_over_swin(dtype: str) -> str:
    """Speed of deployed RMT-S on CPUs over that of Swin-T: the lowest and the highest of the committed runs."""
    gains = []
    for run in ("cpu-224", "cpu-peers", "cpu-bfloat16", "evidence/table11"):
        kept = [row for row in read(run)["results"] if row["dtype"] == dtype and row["step"] == "forward"]
        swin = [row for row in kept if row["model"] == "swin_tiny_patch4_window7_224" and row["mode"] == "eager"]
        ours = [row for row in kept if row["model"] == "rmt_small" and row["mode"] == "deploy"]
        for beside, own in zip(swin, ours, strict=True):
            reference = own.get("reference_images_per_second", beside["images_per_second"])  # measured in turn with it
            gains.append(own["images_per_second"] / reference)
    return " to ".join(dict.fromkeys(f"{gain:.2f}" for gain in (min(gains), max(gains))))


def time_over_swin(name: str) -> str:
    """Time of RMT-S for one image on a CPU, exported or deployed, over that of Swin-T."""
    return f"{read('export')['rmt_small_over_swin_tiny'][name]:.2f}"


def substitutions() -> dict[str, str]:
    quickstart = read("quickstart")
    deployed = entry("gpu/forward", model="rmt_small", mode="deploy+graph")
    plain = entry("gpu/forward", model="rmt_small", mode="eager+graph")
    speedup = plain["seconds"]["median"] / deployed["seconds"]["median"]
    return {
        "quickstart_top1": f"{quickstart['median_test_top1_last_raw']:.1f} %",
        "pixel_224": f"{microseconds_per_pixel(224)} µs",
        "pixel_2688": f"{microseconds_per_pixel(2688)} µs",
        "small_cpu": gains_over_swin("float32"),
        "small_cpu_bf16": gains_over_swin("bfloat16"),
        "small_single": time_over_swin("pytorch fp32"),
        "small_onnx": time_over_swin("onnx fp32"),
        "small_openvino": time_over_swin("openvino fp32"),
        "small_openvino_int8": time_over_swin("openvino int8"),
        "small_gpu": f"{round(deployed['images_per_second'], -2):,.0f} images/s",
        "small_gpu_gain": f"{speedup:.1f} ×",
    }


class Peers(FromCode):
    """Accuracy against speed of RMT and of other networks, of one run of `rmt bench`, the fastest first."""

    def lines(self, name: str) -> Iterator[str]:
        content = read(name)
        best: dict[str, float] = {}
        for row in content["results"]:
            best[row["model"]] = max(best.get(row["model"], 0.0), row["images_per_second"])
        yield "| network | top-1, % (published) | images/s |"
        yield "|---|---|---|"
        for model, speed in sorted(best.items(), key=lambda pair: -pair[1]):
            label = model.removesuffix("_patch4_window7_224").removesuffix("_tf_224")
            label = f"**{label}**" if label.startswith("rmt_") else label
            yield f"| {label} | {PUBLISHED[model].top1:.1f} | {speed:,.0f} |"
        machine = content["machine"]
        yield ""
        options = content["options"]
        yield (
            f"{machine['gpu']}, torch {machine['torch']}, {options['dtypes'][0]}, batches of "
            f"{options['batches'][0]} at 224², CUDA graphs; RMT deployed (`benchmarks/{name}.json`)."
        )


def setup(app: Sphinx) -> dict:
    app.add_directive("peers", Peers)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
