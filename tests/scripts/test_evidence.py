"""The cells and tables of `benchmarks/evidence.py`."""

import json
from pathlib import Path

import pytest
import timm
from helpers.scripts_under_test import script

import rmt  # noqa: F401  registers its networks
from rmt.recipes.model_args import parse_model_args

EVIDENCE = script("evidence", "benchmarks")
SIZES = {"masa": 0.31, "deit": 0.81, "deit-masa": 0.81, "swin": 0.54, "swin-masa": 0.54}


def build(rows, row):
    name, text, _ = rows[row]
    arguments = parse_model_args(text)
    if name.startswith(("swin", "deit")):
        arguments["img_size"] = 32
    return timm.create_model(name, num_classes=10, **arguments)


def millions(model):
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_pairs_of_designs_have_equal_sizes():
    for row, size in SIZES.items():
        assert millions(build(EVIDENCE.ABLATIONS, row)) == pytest.approx(size, rel=0.03), row


@pytest.mark.parametrize("row", EVIDENCE.PEERS)
def test_peers_have_one_to_three_million_parameters(row):
    assert 0.9 < millions(build(EVIDENCE.PEERS, row)) < 3


def entry(row, seed, test, kind="seed"):
    return {
        "row": row,
        "kind": f"{kind} {seed}",
        "seed": seed,
        "test": test,
        "parameters": 3e5,
        "cpu_seconds": 60.0,
    } | {"epochs": 40}


def test_differences_are_paired_by_seed():
    masa, other = {0: 50.0, 1: 52.0, 2: 54.0}, {0: 49.0, 1: 50.0, 2: 51.0}
    entries = [entry("masa", *pair) for pair in masa.items()] + [entry("attention", *pair) for pair in other.items()]
    lines = list(EVIDENCE.table_lines("ablations-1-percent", entries))
    assert "52.00 ± 1.15 | – |" in lines[2]  # the standard deviation 2 by √3
    assert "50.00 ± 0.58 | -2.00 ± 0.58 |" in lines[3]
    assert len(lines) == 4  # what was not run has no row


def test_epochs_fill_the_time(tmp_path):
    entries = [
        entry("rmt", 2, 0, "epochs") | {"cpu_seconds": 30.0},
        entry("rmt", 5, 0, "epochs") | {"cpu_seconds": 90.0},
    ]
    (tmp_path / "peers-32.json").write_text(json.dumps(entries))
    runner = EVIDENCE.Runner(Path("data"), tmp_path, tmp_path, [0])
    assert runner.epochs("peers-32", "rmt", 1.0) == 15  # 300 s, an epoch takes 20
    assert runner.epochs("peers-32", "rmt", 0.5) == 8


def test_a_cell_with_a_result_is_not_run_again(tmp_path, monkeypatch):
    (tmp_path / "ablations-1-percent.json").write_text(json.dumps([entry("masa", 0, 50.0)]))
    monkeypatch.setattr(EVIDENCE.subprocess, "Popen", lambda *args, **kwargs: pytest.fail(f"ran {args}"))
    EVIDENCE.Runner(Path("data"), tmp_path, tmp_path, [0]).cell("ablations-1-percent", "masa", "seed 0", 40, 0, 0)
