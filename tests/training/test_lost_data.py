"""Data that vanish or break under a run end it in one line, and the run goes on exactly once they are back."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.pictures import make_folder
from helpers.runs import assert_same_run, finished_run, photos, tiny_recipe

import rmt
from rmt.data.sources.packing import pack
from rmt.data.sources.shards import ShardSet
from rmt.tasks import resume
from rmt.tasks.classify.module import ClassifyModule


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    finished_run()
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)


def at_step(monkeypatch, number, do):
    """Calls `do` before the n-th training step."""
    original, calls = ClassifyModule.training_step, []

    def step(self, batch, batch_idx):
        calls.append(0)
        if len(calls) == number:
            do()
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ClassifyModule, "training_step", step)


def stopped_and_resumed(monkeypatch, recipe, spoil, mend, line):
    """A run whose data are spoilt in its second epoch says so in a line; mended, it ends like an undisturbed one."""
    with monkeypatch.context() as patch:
        patch.setattr("rmt.tasks.classify.data.CACHE_BYTES", 0)  # else the images are in memory by then
        at_step(patch, 8, spoil)
        try:
            with pytest.raises(rmt.RMTError, match=line) as stopped:
                rmt.train(recipe)
        finally:
            mend()
    assert "\n" not in str(stopped.value)
    resume(recipe.output)


def test_a_folder_that_vanishes(tmp_path, monkeypatch):
    data, away = Path(photos()), tmp_path / "away"
    stopped_and_resumed(
        monkeypatch,
        tiny_recipe(output=str(tmp_path / "run")),
        lambda: shutil.move(data / "train", away),
        lambda: shutil.move(away, data / "train"),
        r"20 images in a row could not be read, the last one .*/train/.*: no such file",
    )
    assert_same_run(tmp_path / "run", finished_run())


def test_a_file_that_vanishes_is_replaced_and_named(tmp_path, monkeypatch, capsys):
    data = make_folder(tmp_path / "photos", classes=3, train=8, val=4)
    at_step(monkeypatch, 2, (data / "train" / "red" / "3.png").unlink)
    result = rmt.train(tiny_recipe(output=str(tmp_path / "run"), data=str(data)))
    assert any("red/3.png" in name for name in result.metrics["unreadable"]["train and val"])
    assert "no such file" in capsys.readouterr().out


def test_a_shard_that_is_cut_while_it_streams(tmp_path, monkeypatch):
    monkeypatch.setenv("RMT_CACHE", str(tmp_path / "cache"))
    pack(make_folder(tmp_path / "photos", classes=3, train=8, val=3), tmp_path / "shards", shard_images=8, workers=1)
    recipe = tiny_recipe(data=str(tmp_path / "shards"), stream="yes", stream_buffer=8)
    whole = rmt.train(replace(recipe, output=str(tmp_path / "whole"))).folder
    shards = sorted((tmp_path / "shards").glob("train-*.parquet"))

    def cut():
        for shard in shards:
            shutil.copy(shard, shard.with_suffix(".kept"))
            shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
        for file in (tmp_path / "cache").rglob("*.arrow"):  # as if others had needed the room
            file.unlink()
        monkeypatch.setattr(ShardSet, "load", _as_if_new)

    def mend():
        for shard in shards:
            shutil.move(shard.with_suffix(".kept"), shard)
        monkeypatch.setattr(ShardSet, "load", load)

    load = ShardSet.load

    def _as_if_new(self, index):
        self._cache.table.cache_clear()
        return load(self, index)

    stopped_and_resumed(
        monkeypatch,
        replace(recipe, output=str(tmp_path / "run")),
        cut,
        mend,
        r"train-0000\d-of-00003\.parquet: not a whole parquet file",
    )
    assert_same_run(tmp_path / "run", whole)
