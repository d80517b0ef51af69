"""Where a step's time goes."""

import re
import time

import pytest
from helpers.runs import tiny_recipe

import rmt
from rmt.tasks.classify.module import ClassifyModule
from rmt.training.checkpoints.io import AtomicCheckpointIO
from rmt.training.profile import PARTS

EACH_UPDATE = 1e-9  # checkpoint_minutes: save after every update


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)


@pytest.mark.parametrize(
    ("slow", "owner", "method"),
    [
        ("forward", ClassifyModule, "batch_loss"),
        ("optimiser", ClassifyModule, "optimizer_step"),
        ("saving", AtomicCheckpointIO, "save_checkpoint"),
    ],
)
def test_a_slow_part_shows(tmp_path, monkeypatch, capsys, slow, owner, method):
    original = getattr(owner, method)

    def slowed(self, *args, **kwargs):
        result = original(self, *args, **kwargs)
        time.sleep(0.4)
        return result

    monkeypatch.setattr(owner, method, slowed)
    rmt.train(tiny_recipe(output=str(tmp_path), profile=True, accumulate=1, epochs=2, checkpoint_minutes=EACH_UPDATE))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("profile:")]
    shares = {part: float(re.search(rf"{part} [\d.]+ ms \(([\d.]+) %\)", line)[1]) for part in PARTS}
    assert sum(shares.values()) == pytest.approx(100, abs=0.5)
    assert max(shares, key=shares.get) == slow
    assert "mean of 7" in line  # two epochs of six, less the first five


def test_without_the_option_nothing_is_said(tmp_path, capsys):
    rmt.train(tiny_recipe(output=str(tmp_path), epochs=1, warmup_epochs=0.0))
    assert "profile" not in capsys.readouterr().out
