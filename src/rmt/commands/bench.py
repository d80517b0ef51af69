"""`rmt bench`: speed and memory of RMT networks and timm's, side by side."""

import functools
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro

from rmt.benchmark.cases import Options


def run(
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(),  # noqa: B008
    preset: str = "",  # its options are the defaults already: see `for_words`
    output: Path | None = None,
    command: tyro.conf.Suppress[tyro.conf.Fixed[str]] = "",  # what was typed, for the record
) -> None:
    """Measure speed and memory of networks, for all combinations of the options.

    Prints medians, spread, peak memory and the fraction of the machine's peak rate for matrix products. All cases are
    measured in turn in every round, so that they stay comparable while the machine's speed changes. With --output, also
    writes JSON, and plots next to it. `python -m rmt.benchmark` does the same without tyro and matplotlib.

    Args:
        options: What to measure.
        preset: Name of a table of docs/speed.md, whose options are taken: cpu-224, cpu-latency, cpu-large, cpu-train,
            cpu-pixels, cpu-peers, cpu-bfloat16, gpu-forward and others; table11 measures all RMT networks and their
            peers, one by one, and continues when it is repeated with the same --output. Other options replace its own,
            which `rmt bench --preset NAME --help` shows.
        output: The JSON file to write.
    """
    from rmt.benchmark.plot import plot
    from rmt.benchmark.run import run_benchmark, table

    content = run_benchmark(options, output, command=command)
    print(table(content))
    if output is not None:
        for file in plot(content, output):
            print(file)


def for_words(words: Sequence[str]) -> Callable[..., None]:
    """The command `run` for the words of a command line: its defaults are those of the preset that they name.

    Raises RMTError for an unknown one.
    """
    command = shlex.join(["rmt", *words])
    if not any(word.startswith("--preset") for word in words):
        return functools.partial(run, command=command)
    from rmt.benchmark.presets import default_options  # imports torch, which the help does without

    return functools.partial(run, options=default_options(words), command=command)
