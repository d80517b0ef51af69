"""The cells and tables of `benchmarks/evidence.py`."""

import json
from pathlib import Path

import pytest
import timm
import tyro
from helpers.documentation import page
from helpers.scripts_under_test import script

import rmt  # noqa: F401  registers its networks
from rmt.commands.train import spell_out_flags
from rmt.recipes import RECIPES
from rmt.recipes.model_args import parse_model_args

TABLES = script("evidence_tables", "benchmarks")
PAGE = script("evidence_page", "benchmarks")
EVIDENCE = script("evidence", "benchmarks")
SIZES = {"masa": 0.31, "deit": 0.81, "deit-masa": 0.81, "swin": 0.54, "swin-masa": 0.54}


def build(rows, row):
    arguments = parse_model_args(rows[row].args)
    if rows[row].model.startswith(("swin", "deit")):
        arguments["img_size"] = 32
    return timm.create_model(rows[row].model, num_classes=10, **arguments)


def millions(model):
    return sum(p.numel() for p in model.parameters()) / 1e6


def test_pairs_of_designs_have_equal_sizes():
    for row, size in SIZES.items():
        assert millions(build(TABLES.ABLATIONS, row)) == pytest.approx(size, rel=0.03), row


@pytest.mark.parametrize("row", TABLES.PEERS)
def test_peers_have_one_to_three_million_parameters(row):
    assert 0.9 < millions(build(TABLES.PEERS, row)) < 3


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
    lines = list(PAGE.table_lines(TABLES.TABLES["ablations-1-percent"], entries))
    assert "52.00 ± 1.15 | – |" in lines[2]  # the standard deviation 2 by √3
    assert "50.00 ± 0.58 | -2.00 ± 0.58 |" in lines[3]
    assert len(lines) == 4  # what was not run has no row


def test_a_page_keeps_what_was_not_measured(tmp_path):
    file, results = tmp_path / "page.md", tmp_path / "results"
    results.mkdir()
    marks = "<!-- evidence: {} -->\nbefore\n<!-- /evidence -->\n"
    file.write_text(marks.format("ablations-1-percent") + marks.format("camvid"), encoding="utf-8")
    entries = [entry("masa", 0, 50.0) | {"cpu": "a processor", "commit": "abc"}]
    (results / "ablations-1-percent.json").write_text(json.dumps(entries))
    PAGE.write(results, [file])
    text = file.read_text(encoding="utf-8")
    assert "| 50.00 | – | 1 | 60 |" in text and "a processor" in text
    assert "<!-- evidence: camvid -->\nbefore\n" in text


def test_the_page_shows_the_committed_results(tmp_path):
    text = page("docs/evidence.md")
    (copy := tmp_path / "page.md").write_text(text, encoding="utf-8")
    (tmp_path / "images").mkdir()
    PAGE.write(EVIDENCE.RESULTS, [copy])
    assert copy.read_text(encoding="utf-8") == text


def runner(folder):
    return EVIDENCE.Runner(Path("data"), folder, folder, [EVIDENCE.Place(0)])


def test_epochs_fill_the_time(tmp_path):
    entries = [
        entry("rmt", 2, 0, "epochs") | {"cpu_seconds": 30.0},
        entry("rmt", 5, 0, "epochs") | {"cpu_seconds": 45.0},
    ]
    (tmp_path / "peers-32.json").write_text(json.dumps(entries))
    assert runner(tmp_path).epochs("peers-32", "rmt", 1.0) == 30  # 150 s, an epoch takes 5
    assert runner(tmp_path).epochs("peers-32", "rmt", 0.5) == 15


def test_a_cell_with_a_result_is_not_run_again(tmp_path, monkeypatch):
    (tmp_path / "ablations-1-percent.json").write_text(json.dumps([entry("masa", 0, 50.0)]))
    monkeypatch.setattr(EVIDENCE.subprocess, "Popen", lambda *args, **kwargs: pytest.fail(f"ran {args}"))
    runner(tmp_path).cell(EVIDENCE.Place(0), "ablations-1-percent", "masa", "seed 0", 40, 0)


@pytest.mark.parametrize("name", TABLES.TABLES)
def test_the_options_of_every_cell_are_taken(name, tmp_path, monkeypatch):
    """A mistyped option would end a measurement after hours."""
    table, typed = TABLES.TABLES[name], []
    monkeypatch.setattr(EVIDENCE.Runner, "call", lambda self, place, command, output: typed.append(command) or {})
    monkeypatch.setattr(EVIDENCE.Runner, "scores", lambda *args: {"test": 0.0})
    for row in [row for row, network in table.rows.items() if network.model]:
        runner(tmp_path).cell(EVIDENCE.Place(0), name, row, "seed 0", table.epochs, 0)
    for command in typed:
        _, _, name, *words = command.split()
        base = RECIPES[name]()
        recipe = tyro.cli(type(base), default=base, args=spell_out_flags(type(base), words[: words.index("--output")]))
        assert not recipe.problems()
        assert recipe.model_args == "" or parse_model_args(recipe.model_args)
