"""`rmt bench`: speed and memory of RMT networks and timm's, side by side."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from rmt.benchmark.cases import Options


def run(
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(),  # noqa: B008
    preset: str = "",
    output: Path | None = None,
) -> None:
    """Measure speed and memory of networks, for all combinations of the options.

    Prints medians, spread, peak memory and the fraction of the machine's peak rate for matrix products. All cases are
    measured in turn in every round, so that they stay comparable while the machine's speed changes. With --output, also
    writes JSON, and plots next to it. `python -m rmt.benchmark` does the same without tyro and matplotlib.

    Args:
        options: What to measure.
        preset: Name of a table of docs/speed.md, whose options are taken: cpu-224, cpu-latency, cpu-large, cpu-train,
            cpu-pixels, cpu-peers, cpu-bfloat16, gpu-forward and others; table11 measures all RMT networks and their
            peers, one by one, and continues when it is repeated with the same --output. Other options replace its own.
        output: The JSON file to write.
    """
    from rmt.benchmark.plot import plot
    from rmt.benchmark.presets import with_preset
    from rmt.benchmark.run import run_benchmark, table

    words = sys.argv[1:]
    content = run_benchmark(with_preset(preset, options, words), output, command=shlex.join(["rmt", *words]))
    print(table(content))
    if output is not None:
        print(*plot(content, output), sep="\n")
