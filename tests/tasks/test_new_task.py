"""A new task takes one package, or module, and one line in `rmt.tasks.TASKS`: shown on `helpers/regression.py`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.regression import RegressionModule, RegressionRecipe
from helpers.runs import assert_same_run
from PIL import Image

import rmt
from rmt.commands.cli import main
from rmt.tasks import TASKS, resume, task_named


def make_numbers(root: Path) -> str:
    """Images of one brightness, which is also their name."""
    for split, count in (("train", 12), ("val", 4)):
        (root / split).mkdir(parents=True)
        for place in range(count):
            number = (place + 0.5) / count
            Image.new("RGB", (32, 32), (round(255 * number),) * 3).save(root / split / f"{number:.3f}.png")
    return str(root)


def regression_recipe(folder: Path, **changes: Any) -> RegressionRecipe:
    common: dict[str, Any] = dict(name="numbers", data=make_numbers(folder / "data"), model="rmt_test", batch_size=4)
    return RegressionRecipe(**common | dict(lr_base_batch=0, device="cpu", workers=0, ema_decay=0.5) | changes)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(TASKS, "regression", "helpers.regression")  # the one line


def test_a_new_task_trains_resumes_and_evaluates(tmp_path, monkeypatch):
    recipe = regression_recipe(tmp_path)
    whole = rmt.train(replace(recipe, output=str(tmp_path / "whole")))
    assert whole.metrics["last"]["epoch"] == 3 and 0 <= whole.metrics["best"]["val"]["within"] <= 100

    class Killed(BaseException):
        pass

    step, calls = RegressionModule.training_step, []

    def fatal(self, *args):
        calls.append(0)
        if len(calls) == 5:
            raise Killed
        return step(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RegressionModule, "training_step", fatal)
        with pytest.raises(Killed):
            rmt.train(replace(recipe, output=str(tmp_path / "killed")))
    resume(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def test_the_commands_know_it(tmp_path, capsys):
    recipe = regression_recipe(tmp_path, epochs=1, output=str(tmp_path / "run"))
    best = rmt.train(recipe).metrics["best"]["val"]["within"]
    assert main(["train", "--resume", str(tmp_path / "run")]) == 0
    assert "this run is complete" in capsys.readouterr().out
    result = task_named("regression").evaluate(tmp_path / "run", recipe.data, device="cpu")
    assert result == {"within": best, "images": 4}


def test_contributing_shows_the_same_code():
    code = (Path(__file__).parents[1] / "helpers" / "regression.py").read_text(encoding="utf-8")
    page = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert code in page
