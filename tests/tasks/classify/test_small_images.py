"""The settings for small images make a recipe that runs."""

from dataclasses import replace

import pytest

from rmt.recipes import finetune
from rmt.tasks.classify.small_images import LARGEST_SIDE, small_image_settings


@pytest.mark.parametrize("side", [32, 48, LARGEST_SIDE])
def test_settings_are_fields_of_the_recipe_and_possible_together(side: int):
    settings = small_image_settings(side)
    recipe = replace(finetune(), data="photos", model="rmt_nano", image_size=side, **settings)
    assert not recipe.problems()
    assert settings["crop_padding"] == side / 8
    assert settings["batch_size"] % 2 == 0  # Mixup mixes pairs, where a user turns it on
