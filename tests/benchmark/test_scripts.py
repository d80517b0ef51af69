"""The scripts in benchmarks/ ask for what the benchmark can do: run with a python3 that only notes its arguments."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import timm

from rmt.benchmark import __main__ as program
from rmt.benchmark.cases import list_cases
from rmt.model import list_models

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("script", ["cpu.sh", "cpu-bf16.sh", "gpu.sh"])
def test_every_command_is_one_the_benchmark_takes(script, tmp_path, monkeypatch):
    notes = tmp_path / "notes"
    for name in ("python", "python3"):
        fake = tmp_path / name
        fake.write_text(
            f'#!/bin/sh\nfor word; do printf "%s\\n" "$word"; done >>{shlex.quote(str(notes))}\necho >>{notes}\n'
        )
        fake.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run(["sh", FOLDER / script, tmp_path / "out"], env=environment, cwd=tmp_path, check=True)
    commands = [note.split("\n") for note in notes.read_text().strip().split("\n\n")]

    cases, outputs = [], []
    names = {*list_models(), *timm.list_models()}

    def check(options, output=None, command=""):
        cases.extend(list_cases(options, frozenset(list_models())))
        outputs.append(output)
        return dict(results=[])

    monkeypatch.setattr(program, "run_benchmark", check)
    for module, *words in [command[1:] for command in commands if command[0] == "-m"]:
        if module == "rmt.benchmark":
            program.main(words)  # exits on a mistake
    assert cases and {case.model for case in cases} <= names
    assert len(set(outputs)) == len(outputs)  # none overwrites another
