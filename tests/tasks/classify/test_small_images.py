"""The settings for small images make a recipe that runs."""

from dataclasses import replace

import pytest
from helpers.resolved import resolved
from helpers.runs import photos

from rmt.recipes import finetune
from rmt.tasks.classify.small_images import LARGEST_SIDE, settings


@pytest.mark.parametrize("side", [32, 48, LARGEST_SIDE])
def test_settings_are_fields_of_the_recipe_and_possible_together(side: int):
    chosen = settings(side)
    recipe = replace(finetune(), data="photos", model="rmt_nano", image_size=side, **chosen)
    assert not recipe.problems()
    assert chosen["crop_padding"] == side / 8
    assert chosen["batch_size"] % 2 == 0  # Mixup mixes pairs, where a user turns it on


def test_a_recipe_from_scratch_takes_them_where_it_leaves_fields_open():
    recipe = replace(finetune(), data=photos(), model="rmt_nano", device="cpu", workers=0, minutes=0.0)
    ran, _ = resolved(recipe)
    chosen = settings(32) | {"batch_size": ran.batch_size}  # at most the training images
    assert ran.image_size == 32
    assert {name: getattr(ran, name) for name in chosen} == chosen
    assert resolved(replace(recipe, batch_size=256))[0].lr == 0.015
    given = dict(optimizer="muon", crop_padding=2, randaugment="rand-m1", crop_pct=0.5, lr=0.001)
    ran, _ = resolved(replace(recipe, **given))
    assert {name: getattr(ran, name) for name in given} == given
    for other in (dict(model="rmt_pico"), dict(optimizer="adamw")):  # Muon's rate is too high for AdamW
        ran, _ = resolved(replace(recipe, **other))
        assert (ran.optimizer, ran.lr, ran.crop_padding, ran.crop_pct) == ("adamw", 0.002, 0, 0.875)
        assert ran.randaugment == "rand-m5-mstd0.5-inc1"


@pytest.mark.parametrize(
    ("changes", "erased"),
    [
        (dict(epochs=20), 0.25),
        (dict(epochs=10, epoch_repeats=2.0), 0.25),
        (dict(epochs=19), 0.0),
        (dict(epochs=20, random_erasing=0.1), 0.1),
        (dict(epochs=20, model="rmt_pico"), 0.0),
    ],
)
def test_many_passes_from_scratch_erase_rectangles(changes, erased):
    recipe = replace(finetune(), data=photos(), model="rmt_nano", device="cpu", workers=0, minutes=0.0)
    ran, _ = resolved(replace(recipe, **changes))
    assert ran.random_erasing == erased
