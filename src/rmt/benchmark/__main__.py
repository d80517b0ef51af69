"""`python -m rmt.benchmark`: like `rmt bench`, with torch, timm and NumPy only."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from rmt.benchmark.cases import Case, Options
from rmt.benchmark.memory import measure_memory
from rmt.benchmark.presets import PRESETS, default_options
from rmt.benchmark.run import run_benchmark, set_threads, table
from rmt.errors import RMTError


def main(argv: list[str] | None = None) -> None:
    """Run one command line."""
    args = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="python -m rmt.benchmark", description=__doc__, allow_abbrev=False)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--preset", help=f"the options of a table of docs/speed.md: {', '.join(PRESETS)}")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)  # one case, for `memory.peak_memory`
    try:
        for field, default in vars(default_options(args)).items():
            name = f"--{field.replace('_', '-')}"
            if isinstance(default, bool):
                parser.add_argument(name, action=argparse.BooleanOptionalAction, default=default)
            elif isinstance(default, tuple):
                parser.add_argument(name, nargs="+", type=type(default[0]), default=default)
            else:
                parser.add_argument(name, type=type(default), default=default)
        values = vars(parser.parse_args(args))
        output, memory_of, _ = (values.pop(name) for name in ("output", "memory_of", "preset"))
        if memory_of is not None:
            case, values = json.loads(memory_of)
            set_threads(options := _options(values))
            print(json.dumps(measure_memory(Case(**case), options)))
        else:
            command = shlex.join(["python", "-m", "rmt.benchmark", *args])
            print(table(run_benchmark(_options(values), output, command=command)))
    except (RMTError, OSError) as error:
        sys.exit(f"rmt.benchmark: {error}")
    except KeyboardInterrupt:
        print("rmt.benchmark: stopped", file=sys.stderr)
        sys.exit(130)


def _options(values: dict[str, Any]) -> Options:
    tuples: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return Options(**tuples)


if __name__ == "__main__":
    main()
