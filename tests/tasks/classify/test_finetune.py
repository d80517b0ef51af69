import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.pictures import make_folder
from helpers.resolved import resolved
from helpers.runs import finished_run, photos, tiny_recipe

import rmt
from rmt.recipes import finetune
from rmt.tasks.classify.baseline import MajorityBaseline
from rmt.tasks.classify.build import default_epochs

LEARNING = dict(epochs=8, lr=1e-2, accumulate=1, mixup=0.0, cutmix=0.0, random_erasing=0.0, randaugment="")


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)


def test_colours_are_learned_from_scratch(tmp_path):
    recipe = tiny_recipe(output=str(tmp_path), **LEARNING)
    assert rmt.train(recipe).metrics["last"]["raw"]["val"]["top1"] >= 90


def test_what_the_recipe_leaves_open_is_chosen_to_suit():
    scratch, from_weights = (
        resolved(replace(finetune(), data=photos(), device="cpu", weights=w, minutes=0.0))[0]
        for w in ("", str(finished_run()))
    )
    assert (scratch.model, scratch.image_size, scratch.lr, scratch.layer_decay) == ("rmt_pico", 96, 2e-3, 1.0)
    assert (from_weights.model, from_weights.image_size) == ("rmt_test", 32)
    assert (from_weights.lr, from_weights.layer_decay) == (5e-4, 0.75)
    assert (scratch.batch_size, scratch.epochs, from_weights.epochs) == (24, 200, 200)
    assert resolved(replace(finetune(), data=photos(), device="cpu", epochs=3, minutes=0.0))[0] == replace(
        scratch, epochs=3, warmup_epochs=0.3
    )


def test_the_number_of_epochs_follows_the_amount_of_data():
    assert [default_epochs(updates, from_scratch=True) for updates in (1, 15, 1000)] == [200, 100, 30]
    assert default_epochs(10, from_scratch=False) == 50


def test_weights_of_the_same_classes_keep_their_classifier(tmp_path, capsys):
    recipe = tiny_recipe(
        output=str(tmp_path),
        weights=str(finished_run()),
        lr=1e-9,
        min_lr=0.0,
        warmup_lr=0.0,
        epochs=1,
        warmup_epochs=0.0,
        drop_path=0.0,
    )
    result = rmt.train(recipe)
    assert "new classifier" not in capsys.readouterr().out
    before = json.loads((finished_run() / "metrics.json").read_text())["best"]["val"]["top1"]
    assert abs(result.metrics["last"]["ema"]["val"]["top1"] - before) <= 100 * 3 / 12  # batch norm moves on


@pytest.mark.parametrize("classes", [2, 4])
def test_another_number_of_classes_gets_a_new_head_and_says_so(tmp_path, capsys, classes):
    data = make_folder(tmp_path / "photos", classes=classes)
    result = rmt.train(
        tiny_recipe(
            output=str(tmp_path / "run"), data=str(data), weights=str(finished_run()), epochs=1, warmup_epochs=0.0
        )
    )
    assert f"new classifier for {classes} classes (the weights file has other classes" in capsys.readouterr().out
    assert rmt.load(result.folder).model.num_classes == classes


def test_as_many_classes_but_others_get_a_new_head_too(tmp_path, capsys):
    data = make_folder(tmp_path / "photos", classes=3)
    for split in ("train", "val"):
        (data / split / "red").rename(data / split / "scarlet")
    rmt.train(
        tiny_recipe(
            output=str(tmp_path / "run"), data=str(data), weights=str(finished_run()), epochs=1, warmup_epochs=0.0
        )
    )
    assert "new classifier for 3 classes" in capsys.readouterr().out


def test_weights_of_another_network_are_refused(tmp_path):
    with pytest.raises(rmt.RMTError) as refused:
        rmt.train(tiny_recipe(output=str(tmp_path), weights=str(finished_run()), model="rmt_tiny"))
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_accuracy_at_the_baseline_is_warned_of_with_numbers(tmp_path, capsys):
    recipe = tiny_recipe(output=str(tmp_path), lr=1e-9, min_lr=0.0, warmup_lr=0.0, epochs=4, ema_decay=0.0)
    rmt.train(recipe)
    start = "warning: accuracy is no better than the baseline"
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(start)]
    for part in (
        "of 12 images after 3 epochs",
        "always predicting one class gives 33.3 %",
        "uniform predictions: 1.10",
        "peak learning rate 1.0e-09",
        "--lr",
    ):
        assert part in line


def test_the_baseline_is_the_most_frequent_class():
    baseline = MajorityBaseline.of(np.array([0, 0, 0, 1]), 2)
    assert baseline.score == 75
    assert baseline.limit == pytest.approx(75 + 2 * 100 * (0.75 * 0.25 / 4) ** 0.5)


def test_learning_is_not_warned_of(tmp_path, capsys):
    rmt.train(tiny_recipe(output=str(tmp_path), **LEARNING))
    assert "baseline" not in capsys.readouterr().out
