"""The images of one update, however many devices share them."""

from dataclasses import replace

import pytest
from helpers.runs import tiny_recipe

import rmt
from rmt.recipes import ADE20K, COCO
from rmt.training.batch import effective_batch, peak_lr, require_images, share_batch
from rmt.training.machine import Machine
from rmt.training.resolve import resolve_machine, resolve_resumed

PAPER = [make() for make in (*COCO.values(), *ADE20K.values())]


@pytest.mark.parametrize("recipe", PAPER, ids=lambda recipe: recipe.name)
def test_the_paper_s_sixteen_images_on_any_number_of_devices(recipe):
    for devices, nodes in ((1, 1), (2, 1), (4, 1), (8, 1), (8, 2)):
        settled = share_batch(replace(recipe, devices=devices, nodes=nodes))
        assert effective_batch(settled) == 16
        assert peak_lr(settled) == pytest.approx(recipe.lr)
        assert settled.batch_size <= recipe.batch_size
        assert share_batch(settled) == settled  # as when it is resumed


@pytest.mark.parametrize(
    ("given", "devices", "settled"),
    [
        (dict(effective_batch=16, batch_size=2), 1, (2, 8)),
        (dict(effective_batch=16, batch_size=2), 4, (2, 2)),
        (dict(effective_batch=16, batch_size=2, mixup=0.0, cutmix=0.0), 16, (1, 1)),
        (dict(effective_batch=50, batch_size="auto", mixup=0.0, cutmix=0.0), 1, (25, 2)),
        (dict(effective_batch=50, batch_size="auto"), 1, (10, 5)),
        (dict(effective_batch=16, batch_size=16), 8, (2, 1)),
        (dict(effective_batch=16, batch_size=4, accumulate=2), 2, (4, 2)),
        (dict(effective_batch=0, batch_size=7, accumulate=3), 5, (7, 3)),
    ],
)
def test_a_device_s_share(given, devices, settled):
    recipe = share_batch(tiny_recipe(**{"accumulate": 1, **given}, devices=devices, nodes=1))
    assert (recipe.batch_size, recipe.accumulate) == settled
    assert resolve_resumed(recipe, recipe, Machine("cpu", devices, 1)).batch_size == recipe.batch_size


@pytest.mark.parametrize(
    ("given", "devices", "said"),
    [
        (dict(batch_size=2), 3, "--effective-batch 16 cannot be divided evenly among 3 devices"),
        (dict(batch_size=2), 32, "--effective-batch 16 cannot be divided evenly among 32 devices"),
        (dict(batch_size=4), 16, "on 16 devices is 1 image each, and Mixup and CutMix need an even number"),
        (dict(batch_size=3), 1, "on 1 device is 16 images each, which --batch-size 3 does not make"),
        (dict(batch_size=4, accumulate=3), 2, "is 8 images each, which --batch-size 4 x --accumulate 3 does not make"),
    ],
)
def test_what_does_not_come_out_even_is_refused(given, devices, said):
    recipe = tiny_recipe(**{"accumulate": 1, **given}, effective_batch=16, devices=devices, nodes=1)
    with pytest.raises(rmt.RMTError, match=said):
        share_batch(recipe)


@pytest.mark.parametrize(
    ("changes", "settled"),
    [
        (dict(devices=8), (8, 1)),
        (dict(devices=2), (8, 4)),
        (dict(batch_size=4), (4, 4)),
        (dict(devices=8, batch_size=2, accumulate=4), (2, 4)),
    ],
)
def test_a_resumed_run_shares_it_anew(changes, settled):
    began = tiny_recipe(effective_batch=64, batch_size=8, accumulate=1, devices=4, nodes=1, strategy="ddp")
    machine = Machine("cpu", changes.get("devices", 4), 1)
    began = resolve_machine(began, machine)
    assert (began.batch_size, began.accumulate) == (8, 2)
    assert resolve_resumed(began, began, machine) == began
    resumed = resolve_resumed(replace(began, **changes), began, machine)
    assert (resumed.batch_size, resumed.accumulate) == settled


def test_more_images_than_there_are():
    require_images(tiny_recipe(effective_batch=16, accumulate=1), 16)
    with pytest.raises(rmt.RMTError, match="takes 16 images .* only 15 to train on: lower --effective-batch"):
        require_images(tiny_recipe(effective_batch=16, accumulate=1), 15)
    with pytest.raises(rmt.RMTError, match="takes 10 images .* only 5 to train on: lower --accumulate"):
        require_images(tiny_recipe(accumulate=2, batch_size=5), 5)


def test_a_run_keeps_to_it_and_is_resumed(tmp_path, monkeypatch):
    """Twelve images an update, four at once; the folder's recipe says so, and goes on as it is."""
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    recipe = tiny_recipe(output=str(tmp_path), effective_batch=12, batch_size=4, accumulate=1, epochs=2)
    result = rmt.train(recipe)
    assert result.metrics["effective_batch"] == 12
    from rmt.tasks import resume

    assert resume(tmp_path).metrics == result.metrics
    assert resume(tmp_path, recipe).metrics == result.metrics


def test_a_single_small_image_is_too_little_for_batchnorm(tmp_path):
    changes = dict(batch_size=1, accumulate=1, epochs=1, mixup=0.0, cutmix=0.0, drop_path=0.0)
    with pytest.raises(rmt.RMTError, match="too small for BatchNorm.*--batch-size of 2"):
        rmt.train(tiny_recipe(output=str(tmp_path / "run"), **changes))
