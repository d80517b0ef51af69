"""`rmt bench`: speed and memory of our networks and of timm's, side by side."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import tyro

from rmt.benchmark.cases import Options


def run(options: Annotated[Options, tyro.conf.arg(name="")] = Options(), output: Path | None = None) -> None:  # noqa: B008
    """Measure models × sizes × batches × dtypes × modes × backends × steps in interleaved rounds.

    Prints medians, spread, peak memory and the fraction of the machine's matrix peak; with --output, writes JSON and
    plots beside it. `python -m rmt.benchmark` is the same without tyro and matplotlib.

    Args:
        options: what to measure.
        output: the JSON file to write.
    """
    from rmt.benchmark.plot import plot
    from rmt.benchmark.run import run_benchmark, table

    content = run_benchmark(options, output, command=shlex.join(["rmt", *sys.argv[1:]]))
    print(table(content))
    if output is not None:
        for picture in plot(content, output):
            print(picture)
