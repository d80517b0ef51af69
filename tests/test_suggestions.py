import os
from pathlib import Path

import pytest

from rmt.errors import RMTError
from rmt.model import resolve_checkpoint
from rmt.model.state_dicts import read_state_dict
from rmt.suggestions import nearest_run, suggest
from rmt.training.run_folder import RunFolder


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("gren", "did you mean green?"),
        ("GREEN", "did you mean green?"),
        ("tench", "did you mean tench, Tinca tinca?"),  # a beginning, which difflib finds too different
        ("xyz", "all of them"),
    ],
)
def test_names_that_resemble_another_or_begin_it(name, found):
    assert suggest(name, ["green", "blue", "tench, Tinca tinca"], "all of them") == found


def test_of_very_many_names_three_are_suggested():
    assert suggest("name 1", [f"Name {number}" for number in range(1000)]).count(" or ") == 2


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs/finetune-1, of yesterday, and runs/other, of today; and a folder that is no run."""
    monkeypatch.chdir(tmp_path)
    for name, time in (("finetune-1", 1e9), ("other", 2e9)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in ("recipe.json", "best.safetensors"):
            (tmp_path / "runs" / name / file).write_text("{}")
            os.utime(tmp_path / "runs" / name / file, (time, time))
    (tmp_path / "photos").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("path", "near"),
    [
        ("runs/finetune-2", "runs/finetune-1"),
        ("rnus/finetune-2", "runs/finetune-1"),
        ("runs", "runs/other"),  # no name is similar: the latest
        ("photos", "runs/other"),
        ("runs/finetune-1/last.ckpt", "runs/finetune-1"),
    ],
)
def test_a_path_that_is_no_run_names_the_nearest(runs, path, near):
    with pytest.raises(RMTError, match=rf"^{path} is no run of `rmt train`, .*; the nearest run folder is {near}$"):
        RunFolder.open(Path(path))


def test_a_checkpoint_that_is_not_there(runs):
    for path in ("rnus/finetune-2", "absent.pth"):
        with pytest.raises(RMTError, match=rf"^no checkpoint at {path}: give a model file, .*rmt_micro.* is runs/"):
            read_state_dict(path)
    with pytest.raises(RMTError, match=r"^runs is a folder without best.safetensors; .* run folder is runs/other$"):
        resolve_checkpoint("runs")


def test_without_runs_none_is_named(tmp_path, monkeypatch):
    place = tmp_path / "empty"  # beside tmp_path are the folders of other tests
    place.mkdir()
    monkeypatch.chdir(place)
    assert nearest_run(place / "a" / "b", "recipe.json") == nearest_run(place, "recipe.json") == ""
