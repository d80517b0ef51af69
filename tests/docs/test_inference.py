"""docs/inference.md: the search it shows works, and its figures are those of the committed run."""

import json

from helpers.documentation import page, python_blocks
from helpers.runs import photos

from rmt.commands.cli import main

PAGE = page("docs/inference.md")


def test_the_search_finds_the_image_itself(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["embed", "rmt_micro", f"{photos()}/val", "--output", "embeddings.parquet", "--device", "cpu"]
    assert main([*words, "--workers", "0"]) == 0
    capsys.readouterr()
    (search,) = [block for block in python_blocks(PAGE) if "argsort" in block]
    photo = f"{photos()}/val/red/0.png"
    exec(search.replace("photo.jpg", photo), {})
    first, *others = capsys.readouterr().out.splitlines()
    assert first == f"1.000 {photo}" and len(others) == 4


def test_the_speeds_are_those_of_the_committed_run():
    found = json.loads(page("benchmarks/bulk.json"))
    for name in ("predict", "embed"):
        assert f"{found['over_network'][name]:.2f}" in PAGE.partition("## Speed")[2]
