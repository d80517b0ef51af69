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


def gain_over_swin(mode: str) -> str:
    """Speed of RMT-S on a CPU, by this mode, over that of Swin-T by PyTorch's own."""
    swin = entry("cpu-224", model="swin_tiny_patch4_window7_224", mode="eager")
    ours = entry("cpu-224", model="rmt_small", mode=mode, backend="auto")
    return f"{swin['seconds']['median'] / ours['seconds']['median']:.2f}"


def substitutions() -> dict[str, str]:
    quickstart, site = read("quickstart"), read("site")
    deployed = entry("gpu/forward", model="rmt_small", mode="deploy+graph")
    plain = entry("gpu/forward", model="rmt_small", mode="eager+graph")
    speedup = plain["seconds"]["median"] / deployed["seconds"]["median"]
    return {
        "quickstart_top1": f"{quickstart['median_test_top1_last_raw']:.1f} %",
        "pixel_224": f"{microseconds_per_pixel(224)} µs",
        "pixel_2688": f"{microseconds_per_pixel(2688)} µs",
        "small_cpu_deployed": gain_over_swin("deploy"),
        "small_cpu_eager": gain_over_swin("eager"),
        "small_gpu": f"{round(deployed['images_per_second'], -2):,.0f} images/s",
        "small_gpu_gain": f"{speedup:.1f} ×",
        "site_pages": str(site["pages"]),
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
