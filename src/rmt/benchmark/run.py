"""One run: prepare every case, time them in interleaved rounds, measure memory, write JSON."""

import functools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rmt.benchmark.cases import Case, Options, list_cases
from rmt.benchmark.machine import describe
from rmt.benchmark.measure import peak_memory, summarise, time_rounds
from rmt.benchmark.prepare import build, matrix_product, output_error, prepare
from rmt.errors import RMTError
from rmt.model import list_models
from rmt.model.cost import count_macs

CONVENTION = "1 MAC is one multiply and one add; convolutions, linear layers and both attention products count"


def run_benchmark(options: Options, output: Path | None = None, command: str = "", quiet: bool = False) -> dict:
    """Measure all cases of `options`.

    Args:
        output: a JSON file to write.
        command: what the user typed, for the record.
    Returns:
        the content of the JSON: `command`, `options`, `machine`, `peak` (per dtype), `results`.
    Raises:
        RMTError: unknown words, networks or devices.
    """
    report: Callable[[str], None] = (lambda text: None) if quiet else (lambda text: print(text, file=sys.stderr))
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        raise RMTError(f"device {options.device}: this machine has no CUDA device that PyTorch can use")
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    cases = list_cases(options, frozenset(list_models()))
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    machine = describe(options.device)

    functions: dict[Any, Callable[[], None]] = {}
    flops, first_call, failed = {}, {}, {}
    for dtype in options.dtypes:
        functions[dtype], flops[dtype] = matrix_product(dtype, options.device)
        functions[dtype]()
    for case in cases:
        report(f"preparing {case.label}")
        start = time.perf_counter()
        try:
            function = prepare(case, options)
            for _ in range(3 if options.device.startswith("cuda") else 1):
                function()
        except (RMTError, RuntimeError) as error:  # out of memory, say: the others can still be compared
            if len(cases) == 1:
                raise
            failed[case] = " ".join(str(error).split())
            report(f"  left out: {failed[case]}")
            continue
        functions[case], first_call[case] = function, time.perf_counter() - start
    times = time_rounds(functions, options, report)
    peaks = {dtype: flops[dtype] / summarise(times[dtype])["median"] for dtype in options.dtypes}
    del functions

    results = []
    for case in cases:
        entry = asdict(case)
        if case in failed:
            results.append(entry | dict(failed=failed[case]))
            continue
        report(f"memory of {case.label}") if options.memory else None
        seconds = summarise(times[case])
        cost = _cost(case.model, (case.image_size, case.image_width))
        rate = case.batch / seconds["median"]
        passes = 3 if case.step == "train" else 1
        entry |= dict(
            seconds=seconds,
            images_per_second=rate,
            first_call=first_call[case],
            peak_memory=peak_memory(case, options) if options.memory else None,
            output_error=output_error(case, options) if case.tolerance and case.step == "forward" else None,
            fraction_of_matrix_peak=2 * cost["macs"] * passes * rate / peaks[case.dtype],
            **cost,
        )
        results.append(entry)
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


@functools.cache
def _cost(name: str, size: tuple[int, int]) -> dict[str, int]:
    model: Any = build(name, size, seed=0)
    if not isinstance(getattr(model, "in_chans", None), int):
        model.in_chans = 3
    parameters = sum(p.numel() for p in model.parameters())
    return dict(parameters=parameters, macs=count_macs(model, *size))


def table(content: dict) -> str:
    """The results for a terminal: one line per case."""
    lines = [f"{'images/s':>9} {'ms':>9} {'± %':>5} {'peak MB':>8} {'of peak':>7}  case"]
    for entry in content["results"]:
        case = Case(**{key: entry[key] for key in Case.__dataclass_fields__})
        if "failed" in entry:
            lines.append(f"{'–':>9} {'':>9} {'':>5} {'':>8} {'':>7}  {case.label}: {entry['failed']}")
            continue
        median, (low, high) = entry["seconds"]["median"], entry["seconds"]["quartiles"]
        memory = f"{entry['peak_memory'] / 1e6:.0f}" if entry["peak_memory"] is not None else "–"
        lines.append(
            f"{entry['images_per_second']:9.2f} {median * 1e3:9.1f} {(high - low) / 2 / median * 100:5.1f} "
            f"{memory:>8} {entry['fraction_of_matrix_peak']:7.2f}  {case.label}"
            + (f", output error {entry['output_error']:.1e}" if entry.get("output_error") is not None else "")
        )
    return "\n".join(lines)
