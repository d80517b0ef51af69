"""A place that cannot be written to is refused before data are opened and networks loaded."""

import os

import pytest

from rmt.commands.cli import main
from rmt.errors import RMTError
from rmt.output_folder import create_or_reopen, require_empty, require_writable

BELOW_A_FILE = "cannot write file/{0}: file is a file, not a folder"
NO_FOLDER = "cannot write no/{0}: its folder does not exist"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("bench --models none --output file/a.json", "cannot write file: File exists"),
        ("check nowhere --output no/a.png", NO_FOLDER.format("a.png")),
        ("check nowhere --json no/a.json", NO_FOLDER.format("a.json")),
        ("convert nowhere.pth no/a.safetensors", NO_FOLDER.format("a.safetensors")),
        ("embed rmt_micro nowhere --output file/a.parquet", BELOW_A_FILE.format("a.parquet")),
        ("evaluate rmt_micro nowhere --output no/a.json", NO_FOLDER.format("a.json")),
        ("evaluate rmt_micro nowhere --output folder", "cannot write folder: it is a folder; name a file"),
        ("explain rmt_micro nowhere --output file/a", BELOW_A_FILE.format("a")),
        ("explain rmt_micro nowhere --output folder", "--output folder is not empty (it holds a.txt)"),
        ("export rmt_micro --data nowhere --output no/a.onnx", NO_FOLDER.format("a.onnx")),
        ("predict rmt_micro nowhere --output file/a.csv", BELOW_A_FILE.format("a.csv")),
        ("shard nowhere file/a", BELOW_A_FILE.format("a")),
        ("shard nowhere folder", "folder: it holds a.txt but no rmt-shard.json"),
        ("token-labels --data nowhere --weights nowhere --out file/a", BELOW_A_FILE.format("a")),
        ("token-labels --data nowhere --weights nowhere --out folder", "folder: it holds a.txt but no token-labels"),
        ("train finetune nowhere --output file/a", BELOW_A_FILE.format("a")),
    ],
)
def test_the_output_is_checked_before_all_that_is_slow(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").touch()
    assert main(words.split()) == 1
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_without_permission_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    for check in (
        require_writable,
        require_empty,
        lambda path: create_or_reopen(path, "index.json", "{}", "shards"),
    ):
        with pytest.raises(RMTError, match=rf"^cannot write {tmp_path}/a: no permission to write in {tmp_path}$"):
            check(tmp_path / "a")
    assert not list(tmp_path.iterdir())
