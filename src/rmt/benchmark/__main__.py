"""`python -m rmt.benchmark`: as `rmt bench`, on torch, timm and NumPy alone."""

import argparse
import json
import shlex
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

from rmt.benchmark.cases import Case, Options
from rmt.benchmark.measure import measure_memory
from rmt.benchmark.run import run_benchmark, table
from rmt.errors import RMTError


def main(argv: list[str] | None = None) -> int:
    """Runs one command line and returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m rmt.benchmark", description=__doc__)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one case, for `measure.peak_memory`
    for field in fields(Options):
        name, default = f"--{field.name.replace('_', '-')}", field.default
        if isinstance(default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default)
        elif isinstance(default, tuple):
            parser.add_argument(name, nargs="+", type=type(default[0]), default=default)
        else:
            parser.add_argument(name, type=type(default), default=default)
    args = vars(parser.parse_args(argv))
    output, memory_of = args.pop("output"), args.pop("memory_of")
    try:
        if memory_of is not None:
            return _memory_of(memory_of)
        options = _options(args)
        typed = shlex.join(["python", "-m", "rmt.benchmark", *(sys.argv[1:] if argv is None else argv)])
        print(table(run_benchmark(options, output, command=typed)))
    except RMTError as error:
        print(f"rmt.benchmark: {error}", file=sys.stderr)
        return 1
    return 0


def _options(values: dict[str, Any]) -> Options:
    tuples: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    return Options(**tuples)


def _memory_of(text: str) -> int:
    import torch

    case, options = json.loads(text)
    options = _options(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(json.dumps(measure_memory(Case(**case), options)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
