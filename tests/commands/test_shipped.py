"""Commands with the weights in the package: `rmt predict photo.jpg` answers without any training."""

import json

import pytest
from PIL import Image

import rmt
from rmt.commands.cli import main


@pytest.fixture
def photo(tmp_path):
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_predict_without_a_checkpoint_says_what_it_uses(photo, capsys):
    assert main(["predict", str(photo), str(photo), "--json", "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    first, second = map(json.loads, shown.out.splitlines())
    assert first == second and first["image"] == str(photo)
    assert shown.err.count("\n") == 1 and "rmt_micro is used, which knows airplane, " in shown.err
    named = rmt.load("rmt_micro", device="cpu").predict(str(photo))[0]
    assert [p["label"] for p in first["predictions"]] == [p.label for p in named]
    assert first["predictions"][0]["probability"] == pytest.approx(named[0].probability, abs=1e-6)


def test_a_name_is_a_checkpoint(photo, capsys):
    assert main(["predict", "rmt_micro", str(photo), "--device", "cpu"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["predict", "rmt_small", str(photo)]) == 1
    assert "rmt: rmt_small is a network without weights in this package: give " in capsys.readouterr().err
    assert main(["predict", "rmt_micro"]) == 1
    assert "name at least one image" in capsys.readouterr().err


def test_info_describes_the_weights(capsys):
    assert main(["info", "rmt_micro"]) == 0
    text = capsys.readouterr().out
    assert "1,312,650 parameters" in text and "classes: airplane, " in text and "top1 90.91" in text
    assert main(["info"]) == 0
    assert "With weights in the package: rmt_micro (cifar10)" in capsys.readouterr().out


def test_help_for_a_name_is_that_of_its_task(capsys):
    with pytest.raises(SystemExit):
        main(["predict", "rmt_micro", "--help"])
    text = capsys.readouterr().out
    assert "--top-k" in text and "--threshold" not in text
