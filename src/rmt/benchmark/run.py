"""One benchmark run: build all cases, time them in interleaved rounds, measure their memory, write the results."""

import functools
import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rmt.atomic import write_text
from rmt.benchmark.build import build_model, build_step, output_error, require_network
from rmt.benchmark.cases import Case, Options, list_cases
from rmt.benchmark.machine import check_device, describe, quiet_warnings
from rmt.benchmark.memory import peak_memory, release_memory
from rmt.benchmark.series import run_series
from rmt.benchmark.timing import matrix_product, summarise, synchronize, time_rounds
from rmt.errors import RMTError
from rmt.model import list_models
from rmt.model.cost import count_macs
from rmt.output_folder import create_folder, require_writable

CONVENTION = "1 MAC is one multiply and one add; convolutions, linear layers and both attention products count"


def run_benchmark(options: Options, output: Path | None = None, command: str = "") -> dict[str, Any]:
    """Measure all cases of `options`, and report the progress on stderr.

    A case that fails, for example because memory is exhausted, is left out if there are others. So is a matrix product:
    the fractions of its rate are None then.

    Args:
        output: JSON file to write the results to.
        command: command line of the user, for the record.
    Returns:
        the content of the JSON: `command`, `options`, `machine`, `matrix_peak` (per dtype), `results`, ….
    Raises:
        RMTError: unknown words, networks or devices.
    """
    check_device(options.device)
    if output is not None:
        create_folder(output.parent)
        require_writable(output)
    cases = list_cases(options, frozenset(list_models()))
    for name in filter(None, (*options.models, options.reference)):
        require_network(name)
    if options.reference:
        return run_series(run_benchmark, options, output, command)
    report = functools.partial(print, file=sys.stderr)
    cuda = options.device.startswith("cuda")
    set_threads(options)
    if cuda:  # events, memory counters and graphs are those of the current device
        torch.cuda.set_device(torch.device(options.device).index or 0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    machine = describe(options.device)

    keys: list[str | Case] = [*options.dtypes, *cases]  # of a dtype a matrix product is measured
    functions: dict[Any, Callable[[], object]] = {}
    flops, first_call, failed = {}, {}, {}
    for key in keys:
        label = key.label if isinstance(key, Case) else f"a matrix product in {key}"
        report(f"preparing {label}")
        start = time.perf_counter()
        try:
            if isinstance(key, Case):
                function = build_step(key, options)
            else:
                function, flops[key] = matrix_product(key, options.device)
            function()
            synchronize(options.device)
            first_call[key] = time.perf_counter() - start
            for _ in range(2 if cuda else 0):
                function()
        except Exception as error:  # timm's networks, compilers and exporters raise nearly any
            failed[key] = " ".join(str(error).split()) or type(error).__name__
            if failed.keys() >= set(cases):  # nothing is left to measure
                raise error if isinstance(error, RMTError) else RMTError(f"{label}: {failed[key]}") from error
            report(f"  left out: {failed[key]}")
        else:
            functions[key] = function
    times = time_rounds(functions, options, report)
    peaks = {dtype: flops[dtype] / summarise(times[dtype])["median"] for dtype in options.dtypes if dtype in functions}
    del functions, function
    release_memory()  # the next processes need it

    results = []
    for case in cases:
        if case in failed:
            results.append(asdict(case) | dict(failed=failed[case]))
            continue
        seconds, cost = summarise(times[case]), _cost(case.model, (case.image_size, case.image_width))
        macs = cost["macs"]
        rate = case.batch / seconds["median"]
        passes, peak = 3 if case.step == "train" else 1, peaks.get(case.dtype)
        entry = asdict(case) | dict(
            seconds=seconds,
            images_per_second=rate,
            first_call=first_call[case],
            peak_memory=None,  # measured last, since it may take longer than all before
            output_error=output_error(case, options) if case.tolerance and case.step == "forward" else None,
            fraction_of_matrix_peak=2 * macs * passes * rate / peak if macs and peak else None,
        )
        results.append(entry | cost)
    content = dict(
        command=command,
        started=started,
        options=asdict(options),
        machine=machine,
        mac_convention=CONVENTION,
        matrix_peak=peaks,
        warnings=quiet_warnings(machine["load"], [_spread(e["seconds"]) for e in results if "failed" not in e]),
        results=results,
    )
    _write(content, output)
    for case, entry in zip(cases, results, strict=True):
        if options.memory and case not in failed:
            report(f"memory of {case.label}")
            entry["peak_memory"] = peak_memory(case, options)
            _write(content, output)
    return content


def _write(content: dict[str, Any], output: Path | None) -> None:
    if output is not None:
        write_text(output, json.dumps(content, indent=1) + "\n")


def _spread(seconds: dict) -> float:
    low, high = seconds["quartiles"]
    return (high - low) / 2 / seconds["median"]


def set_threads(options: Options) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)


@functools.cache
def _cost(name: str, size: tuple[int, int]) -> dict[str, int | None]:
    model: Any = build_model(name, size, seed=0)
    if not isinstance(getattr(model, "in_chans", None), int):
        model.in_chans = 3
    macs = None
    with suppress(Exception):  # a network that cannot run on the meta device
        macs = count_macs(model, *size)
    return dict(parameters=sum(p.numel() for p in model.parameters()), macs=macs)


def table(content: dict[str, Any]) -> str:
    """Format the results for a terminal, one line per case."""
    lines = [f"{'images/s':>9} {'ms':>9} {'± %':>5} {'peak MB':>8} {'of peak':>7}  case"]
    for entry in content["results"]:
        if "failed" in entry and "mode" not in entry:  # a network of a series
            lines.append(
                f"{'–':>9} {'':>9} {'':>5} {'':>8} {'':>7}  {entry['model']}, {entry['step']}: {entry['failed']}"
            )
            continue
        label = Case(**{key: entry[key] for key in Case.__dataclass_fields__}).label
        if "failed" in entry:
            lines.append(f"{'–':>9} {'':>9} {'':>5} {'':>8} {'':>7}  {label}: {entry['failed']}")
            continue
        median, peak = entry["seconds"]["median"], entry["fraction_of_matrix_peak"]
        memory = "–" if entry["peak_memory"] is None else f"{entry['peak_memory'] / 1e6:.0f}"
        error = entry.get("output_error")
        lines.append(
            f"{entry['images_per_second']:9.2f} {median * 1e3:9.1f} {_spread(entry['seconds']) * 100:5.1f} "
            f"{memory:>8} {'–' if peak is None else f'{peak:.2f}':>7}  {label}"
            + ("" if error is None else f", output error {error:.1e}")
        )
    return "\n".join([*lines, *(f"note: {line}" for line in content.get("warnings", []))])
