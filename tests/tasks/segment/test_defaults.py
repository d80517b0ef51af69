"""What a segmenter's open fields are filled with."""

import pytest
from helpers.segment_data import make_segments

from rmt.data.segmentation.dataset import open_segmentation
from rmt.recipes import SegmentRecipe
from rmt.tasks.segment.defaults import median_size, segment_defaults


def defaults(size=(480, 360), **changes) -> dict:
    return segment_defaults(size, **dict(channels=192, device="cpu", from_weights=False) | changes)


def test_street_scenes_on_a_cpu():
    """The values with which CamVid was measured."""
    chosen = defaults()
    expected = dict(short_side=192, long_side=256, crop_size=160, min_ratio=0.75, max_ratio=1.5, head_width=32, lr=2e-3)
    assert {name: chosen[name] for name in expected} == expected


@pytest.mark.parametrize("size", [(20, 20), (64, 64), (96, 200), (300, 150), (4000, 3000), (500, 4000)])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_crops_fit_the_images_and_every_value_is_allowed(size, device):
    chosen = defaults(size, device=device)
    recipe = SegmentRecipe(name="x", data="y", iterations=8000, validate_every=8000, **chosen)
    assert recipe.problems() == []
    assert chosen["short_side"] <= chosen["long_side"]
    if device == "cpu":
        assert chosen["crop_size"] <= max(chosen["short_side"] + 16, 32)
        assert chosen["short_side"] <= max(min(size), 32)  # never enlarged
        aspect = max(size) / min(size)
        assert chosen["long_side"] / chosen["short_side"] == pytest.approx(aspect, rel=0.02)


def test_a_large_network_on_a_gpu_is_trained_as_in_the_paper():
    chosen = defaults(device="cuda", channels=512, from_weights=True)
    assert (chosen["crop_size"], chosen["short_side"], chosen["long_side"]) == (512, 512, 2048)
    assert (chosen["min_ratio"], chosen["max_ratio"], chosen["head_width"]) == (0.5, 2.0, 0)
    assert (chosen["lr"], chosen["weight_decay"]) == (2e-4, 0.01)


def test_the_median_size_is_that_of_the_files(tmp_path):
    train = open_segmentation(str(make_segments(tmp_path, train=3, val=1, height=40, width=72)))[0]
    assert median_size(train) == (72, 40)
    train.masks[0].write_bytes(b"nothing")
    assert median_size(train) == (72, 40)
    for path in train.masks:
        path.write_bytes(b"nothing")
    assert median_size(train) == (512, 512)
