"""A long benchmark, one network at a time: a repeated call continues, since every result is written at once."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rmt.atomic import write_text
from rmt.benchmark.cases import Options
from rmt.benchmark.published import PUBLISHED
from rmt.errors import RMTError

Run = Callable[..., dict[str, Any]]


def run_series(run: Run, options: Options, output: Path | None, command: str = "") -> dict[str, Any]:
    """Measure every network and step of `options` in a run of its own, interleaved with the reference network.

    Machines change their speed within hours, so each result has `reference_images_per_second`, of the same run.

    Args:
        run: `run_benchmark` for one network.
        options: with a `reference`, the name of a network.
        output: JSON file; what it has already is kept and not measured again. Its published accuracies are renewed.
        command: command line of the user, for the record.
    Raises:
        RMTError: the file holds the results of other options.
    """
    settings = replace(options, models=(), steps=())
    content: dict[str, Any] = dict(command=command, series=json.loads(json.dumps(vars(settings))), results=[])
    if output is not None and output.exists():
        content = _read(output, content["series"])
        _write(content, output)
    for step in options.steps:
        for name in options.models:
            if any(entry["model"] == name and entry["step"] == step for entry in content["results"]):
                continue
            try:
                part = run(_one(options, name, step), None, command=command)
            except RMTError as error:
                print(f"left out: {name}, {step}: {error}", file=sys.stderr)
                part = dict(results=[dict(model=name, step=step, failed=str(error))])
            _add(content, part, name, options.reference)
            disturbed = sum(bool(entry.get("warnings")) for entry in content["results"])
            of_all = f"{disturbed} of {len(content['results'])} results were disturbed: see the `warnings` of each"
            content["warnings"] = [of_all] if disturbed else []
            if output is not None:
                _write(content, output)
    return content


def _one(options: Options, name: str, step: str) -> Options:
    models = (name,) if name == options.reference else (name, options.reference)
    return replace(options, models=models, steps=(step,), reference="")


def _add(content: dict[str, Any], part: dict[str, Any], name: str, reference: str) -> None:
    """Append the results of one network, and what is known of it, to the file's content."""
    for key in ("started", "machine", "mac_convention", "matrix_peak"):
        if key in part:
            content.setdefault(key, part[key])
    speeds = [e["images_per_second"] for e in part["results"] if e["model"] == reference and "failed" not in e]
    for entry in part["results"]:
        if entry["model"] == name:
            at = dict(started=part.get("started"), warnings=part.get("warnings", []), published=_published(name))
            content["results"].append(entry | at | dict(reference_images_per_second=max(speeds, default=None)))


def _published(name: str) -> dict[str, Any] | None:
    return PUBLISHED[name]._asdict() if name in PUBLISHED else None


def _read(output: Path, series: dict[str, Any]) -> dict[str, Any]:
    try:
        content = json.loads(output.read_text())
        same = content["series"] == series and isinstance(content["results"], list)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RMTError(f"{output}: not the results of such a run ({error}); choose another --output") from None
    if not same:
        raise RMTError(f"{output}: it holds the results of other options; choose another --output")
    measured = [entry for entry in content["results"] if "mode" in entry]  # the others are tried again
    content["results"] = [entry | dict(published=_published(entry["model"])) for entry in measured]
    return content


def _write(content: dict[str, Any], output: Path) -> None:
    write_text(output, json.dumps(content, indent=1) + "\n")
