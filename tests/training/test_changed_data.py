"""A run that is resumed with other data says which, and goes on with them only if told so."""

import json
import shutil
from dataclasses import replace

import pytest
from helpers.pictures import make_folder
from helpers.runs import rows, tiny_recipe

import rmt
from rmt.commands.cli import main
from rmt.errors import RMTError
from rmt.tasks import resume
from rmt.training.run_folder import RunFolder


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """A folder of data, and a run on it that was killed before its report."""
    root = tmp_path_factory.mktemp("changed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
        data = make_folder(root / "photos")
        rmt.train(tiny_recipe(data=str(data), output=str(root / "run"), epochs=1, warmup_epochs=0.0))
    (root / "run/metrics.json").unlink()
    return root


def change(root, tmp_path):
    """Copies of both; the recipe of the run names the copy of the data."""
    shutil.copytree(root / "photos", tmp_path / "photos")
    shutil.copytree(root / "run", tmp_path / "run")
    return tmp_path / "photos", tmp_path / "run"


def add_images(data):
    """Eight more to train on: an update more per epoch."""
    found = sorted((data / "train").glob("*/*.png"))[:8]
    return [shutil.copy(file, file.with_name(f"more-{number}.png")) for number, file in enumerate(found)]


def test_other_data_are_refused_by_name_or_taken(unfinished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    data, run = change(unfinished, tmp_path)
    recipe = replace(RunFolder.open(run).read_recipe(), data=str(data))  # another place does not matter
    victim = sorted((data / "train").glob("*/*.png"))[0]
    kept = victim.read_bytes()
    victim.unlink()
    gone = f"1 image gone: {victim.relative_to(data / 'train')}; restore them, or pass --accept-changes"
    with pytest.raises(RMTError, match=f"the data differ from those of .*run: {gone}"):
        resume(run, recipe)
    assert not (run / "metrics.json").exists()
    victim.write_bytes(kept)
    resume(run, recipe)
    (run / "metrics.json").unlink()
    victim.write_bytes(kept + b"x")
    add_images(data)
    capsys.readouterr()
    recipe = replace(recipe, epochs=2)
    resume(run, recipe, accept_changes=True)
    said = capsys.readouterr().out
    assert "data changed: " in said and f"1 image with another size or label: {victim.parent.name}/" in said
    assert "an epoch has 4 updates now, and had 3: update 3 counts as 4, so that" in said
    assert [(row["epoch"], row["step"]) for row in rows(run) if row["kind"] == "epoch"] == [("1", "4"), ("2", "8")]
    (run / "metrics.json").unlink()
    resume(run, recipe)  # they are the data of the run now


def test_the_command_line_says_the_same(unfinished, capsys):
    data, run = unfinished / "photos", unfinished / "run"
    folders = sorted((data / "train").iterdir())
    for split in ("train", "val"):
        (data / split / folders[0].name).rename(data / split / "zebra")
    assert main(["train", "--resume", str(run)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert f"class {folders[0].name} is called zebra now" in line and "pass --accept-changes" in line
    assert "other numbers for" in line
    for split in ("train", "val"):
        (data / split / "zebra").rename(data / split / folders[0].name)
    assert not (run / "metrics.json").exists() and json.loads((run / "recipe.json").read_text())["epochs"] == 1


def test_a_run_of_an_earlier_version_has_no_record(unfinished, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    run = shutil.copytree(unfinished / "run", tmp_path / "run")
    (run / "data.jsonl.gz").unlink()
    recipe = replace(RunFolder.open(run).read_recipe(), output=str(run))
    resume(run, recipe)
    assert (run / "data.jsonl.gz").exists()
    (run / "metrics.json").unlink()
    (run / "data.jsonl.gz").unlink()
    added = add_images(unfinished / "photos")
    with pytest.raises(RMTError, match="3 updates per epoch, and there are 4 now: .* pass --accept-changes"):
        resume(run, recipe)
    for file in added:
        file.unlink()
    elsewhere = shutil.copytree(unfinished / "photos", tmp_path / "photos")
    with pytest.raises(RMTError, match="the recipe differs .*: data '.*' -> '.*'; pass --accept-changes"):
        resume(run, replace(recipe, data=str(elsewhere)))  # whether it is the same cannot be known
