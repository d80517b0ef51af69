"""One benchmark run: build all cases, time them in interleaved rounds, measure their memory, write the results."""

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rmt.benchmark.build import build_model, build_step, output_error
from rmt.benchmark.cases import Case, Options, list_cases
from rmt.benchmark.machine import describe
from rmt.benchmark.memory import peak_memory
from rmt.benchmark.timing import matrix_product, summarise, time_rounds
from rmt.errors import RMTError
from rmt.model import list_models
from rmt.model.cost import count_macs

CONVENTION = "1 MAC is one multiply and one add; convolutions, linear layers and both attention products count"


def run_benchmark(options: Options, output: Path | None = None, command: str = "") -> dict:
    """Measure all cases of `options`, and report the progress on stderr.

    A case that fails, for example because memory is exhausted, is left out if there are others.

    Args:
        output: JSON file to write the results to.
        command: command line of the user, for the record.
    Returns:
        the content of the JSON: `command`, `options`, `machine`, `matrix_peak` (per dtype), `results`, ….
    Raises:
        RMTError: unknown words, networks or devices.
    """
    report = functools.partial(print, file=sys.stderr)
    cuda = options.device.startswith("cuda")
    if cuda and not torch.cuda.is_available():
        raise RMTError(f"device {options.device}: this machine has no CUDA device that PyTorch can use")
    set_threads(options)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    cases = list_cases(options, frozenset(list_models()))
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    machine = describe(options.device)

    functions: dict[Any, Callable[[], object]] = {}  # of each dtype and case
    flops, first_call, failed = {}, {}, {}
    for dtype in options.dtypes:
        functions[dtype], flops[dtype] = matrix_product(dtype, options.device)
        functions[dtype]()
    for case in cases:
        report(f"preparing {case.label}")
        start = time.perf_counter()
        try:
            function = build_step(case, options)
            for _ in range(3 if cuda else 1):
                function()
        except (RMTError, RuntimeError) as error:
            if len(cases) == 1:
                raise
            failed[case] = " ".join(str(error).split())
            report(f"  left out: {failed[case]}")
        else:
            functions[case], first_call[case] = function, time.perf_counter() - start
    times = time_rounds(functions, options, report)
    peaks = {dtype: flops[dtype] / summarise(times[dtype])["median"] for dtype in options.dtypes}
    del functions

    results = []
    for case in cases:
        if case in failed:
            results.append(asdict(case) | dict(failed=failed[case]))
            continue
        if options.memory:
            report(f"memory of {case.label}")
        seconds, cost = summarise(times[case]), _cost(case.model, (case.image_size, case.image_width))
        rate = case.batch / seconds["median"]
        passes = 3 if case.step == "train" else 1
        entry = asdict(case) | dict(
            seconds=seconds,
            images_per_second=rate,
            first_call=first_call[case],
            peak_memory=peak_memory(case, options) if options.memory else None,
            output_error=output_error(case, options) if case.tolerance and case.step == "forward" else None,
            fraction_of_matrix_peak=2 * cost["macs"] * passes * rate / peaks[case.dtype],
        )
        results.append(entry | cost)
    content = dict(
        command=command,
        started=started,
        options=asdict(options),
        machine=machine,
        mac_convention=CONVENTION,
        matrix_peak=peaks,
        results=results,
    )
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(content, indent=1) + "\n")
    return content


def set_threads(options: Options) -> None:
    if options.threads:
        torch.set_num_threads(options.threads)


@functools.cache
def _cost(name: str, size: tuple[int, int]) -> dict[str, int]:
    model: Any = build_model(name, size, seed=0)
    if not isinstance(getattr(model, "in_chans", None), int):
        model.in_chans = 3
    return dict(parameters=sum(p.numel() for p in model.parameters()), macs=count_macs(model, *size))


def table(content: dict) -> str:
    """Format the results for a terminal, one line per case."""
    lines = [f"{'images/s':>9} {'ms':>9} {'± %':>5} {'peak MB':>8} {'of peak':>7}  case"]
    for entry in content["results"]:
        label = Case(**{key: entry[key] for key in Case.__dataclass_fields__}).label
        if "failed" in entry:
            lines.append(f"{'–':>9} {'':>9} {'':>5} {'':>8} {'':>7}  {label}: {entry['failed']}")
            continue
        median, (low, high) = entry["seconds"]["median"], entry["seconds"]["quartiles"]
        memory = "–" if entry["peak_memory"] is None else f"{entry['peak_memory'] / 1e6:.0f}"
        error = entry.get("output_error")
        lines.append(
            f"{entry['images_per_second']:9.2f} {median * 1e3:9.1f} {(high - low) / 2 / median * 100:5.1f} "
            f"{memory:>8} {entry['fraction_of_matrix_peak']:7.2f}  {label}"
            + ("" if error is None else f", output error {error:.1e}")
        )
    return "\n".join(lines)
