"""Training on shards that are streamed: nothing is lost, and the order is one for shards."""

from dataclasses import replace

import pytest
from helpers.pictures import make_folder
from helpers.runs import assert_same_run, tiny_recipe

import rmt
from rmt.data.memory import CachedSet
from rmt.data.sources.packing import pack
from rmt.data.sources.shards import ShardSet
from rmt.tasks import resume
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.module import ClassifyModule


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setenv("RMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    pack(make_folder(tmp_path / "photos", classes=3, train=8, val=3), tmp_path / "shards", shard_images=5, workers=1)
    return str(tmp_path / "shards")


def test_the_fields_choose_how_shards_are_read(shards):
    recipe = tiny_recipe(data=shards)
    mapped, streamed = (ClassifyData.open(tiny_recipe(data=shards, stream=how)) for how in ("auto", "yes"))
    assert (mapped.stream, streamed.stream) == ("no", "yes")
    assert isinstance(streamed.train, ShardSet) and isinstance(mapped.train, CachedSet)
    assert streamed.train.order is not None and mapped.train.parent.order is None
    narrow = ClassifyData.open(tiny_recipe(data=shards, stream="yes", stream_buffer=5))

    def order(data):
        return [index for batch in data.train_loader(recipe) for index in batch["index"].tolist()]

    def shards_in(indices):
        return {index // 5 for index in indices}

    assert sorted(order(narrow)) == sorted(order(streamed)) == list(range(24))
    assert len(shards_in(order(narrow)[:4])) == 1  # one shard after another
    assert len(shards_in(order(streamed)[:8])) > 2


def test_a_streamed_run_resumes_exactly_in_the_middle_of_an_epoch(tmp_path, shards, monkeypatch):
    recipe = tiny_recipe(data=shards, stream="yes", stream_buffer=10, checkpoint_minutes=1e-9)
    whole = rmt.train(replace(recipe, output=str(tmp_path / "whole"))).folder

    class Killed(BaseException):
        pass

    original, calls = ClassifyModule.training_step, []

    def fatal(self, batch, batch_idx):
        calls.append(0)
        if len(calls) == 9:
            raise Killed
        return original(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(ClassifyModule, "training_step", fatal)
        with pytest.raises(Killed):
            rmt.train(replace(recipe, output=str(tmp_path / "stopped")))
    resume(tmp_path / "stopped")
    assert_same_run(tmp_path / "stopped", whole)
