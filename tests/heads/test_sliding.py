"""Whole and sliding inference against spelled-out arithmetic, and the bound on memory."""

import itertools
from functools import partial

import pytest
import torch
from helpers.networks import TINY
from torch import nn
from torch.nn import functional as F

import rmt
from rmt.heads.segmentation import sliding as module
from rmt.heads.segmentation.sliding import InferenceOptions, blending_weights, segment, window_starts

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class Local(nn.Module):
    """Logits from a pixel alone: windows cannot change its answer."""

    num_classes = 4

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, self.num_classes, 1)
        self.seen = []

    def forward(self, x):
        self.seen.append(tuple(x.shape))
        return self.conv(x)


class Around(nn.Module):
    """Logits from a pixel's surroundings: borders of windows change the answer, as with any real network."""

    num_classes = 5

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        layers = [nn.Conv2d(3, 8, 9, padding=4), nn.ReLU(), nn.Conv2d(8, self.num_classes, 9, padding=4)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        return self.layers(x) - self.layers(x).mean((2, 3), keepdim=True)  # all classes occur


class Placed(nn.Module):
    """Logits that depend on where in the window a pixel lies: what blending has to make good."""

    num_classes = 2

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        ramp = torch.linspace(-1, 1, x.shape[3]).expand(x.shape[0], 1, *x.shape[2:])
        return torch.cat([ramp, -ramp], 1) + x[:, :1] * 0


def image(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)


def normalised(pixels):
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels.float() / 255 - mean) / std


def answer(network, pixels, size=None, **settings):
    size = size or tuple(pixels.shape[1:])
    return segment(network, pixels, size, mean=MEAN, std=STD, inference=InferenceOptions(**settings))


def test_windows_are_method_7_s():
    assert window_starts(512, 512, 341) == [0]
    assert window_starts(1024, 512, 341) == [0, 341, 512]
    assert window_starts(853, 512, 341) == [0, 341]
    for length, window, stride in itertools.product((40, 63, 64, 99, 150), (40, 32), (21, 32)):
        places = window_starts(length, window, stride)
        covered = sorted({p for place in places for p in range(place, min(place + window, length))})
        assert covered == list(range(length))
        assert places[-1] == max(length - window, 0)


@pytest.mark.parametrize("size", [(32, 32), (50, 90), (33, 40), (129, 31)])
@pytest.mark.parametrize("stride", [21, 32])
def test_sliding_equals_whole_where_windows_do_not_matter(size, stride):
    network, pixels = Local().eval(), image(*size)
    whole = answer(network, pixels)
    assert torch.equal(whole, network(normalised(pixels)[None])[0].argmax(0).to(torch.uint8))
    assert torch.equal(answer(network, pixels, sliding=True, window=32, stride=stride, batch=3), whole)


def test_narrow_strips_give_the_same(monkeypatch):
    network = Around().eval()
    pixels = image(80, 150)
    settings = dict(sliding=True, window=48, stride=32, batch=2)
    expected = answer(network, pixels, **settings)
    assert len(expected.unique()) == 5
    assert not torch.equal(expected, answer(network, pixels))
    monkeypatch.setattr(module, "_STRIP_BYTES", 1)
    assert torch.equal(answer(network, pixels, **settings), expected)


def test_blending_is_the_weighted_mean_of_all_windows():
    network = Around().eval()
    pixels, window, stride = image(75, 100), 40, 25
    total, weights = torch.zeros(5, 75, 100), torch.zeros(75, 100)
    weight = blending_weights(window, stride)[:, None] * blending_weights(window, stride)
    with torch.no_grad():
        for top, left in itertools.product(window_starts(75, window, stride), window_starts(100, window, stride)):
            piece = normalised(pixels)[None, :, top : top + window, left : left + window]
            total[:, top : top + window, left : left + window] += network(piece)[0] * weight
            weights[top : top + window, left : left + window] += weight
    got = answer(network, pixels, sliding=True, window=window, stride=stride, batch=7)
    assert (got == (total / weights).argmax(0)).float().mean() > 0.999  # all but ties of rounding


def test_no_seam_where_answers_change_over_a_window():
    """The blended answer of `Placed` moves evenly; a plain mean would jump at every window's border."""
    pixels = image(40, 200)
    forward = partial(module._forward, Placed(), mean=MEAN, std=STD, options=InferenceOptions())
    whole = torch.empty(2, 40, 200)
    for top, left, block in module._blended_blocks(
        forward, Placed.num_classes, pixels, InferenceOptions(sliding=True, window=40, stride=24)
    ):
        whole[:, top : top + block.shape[1], left : left + block.shape[2]] = block
    row = whole[0, 20]
    inner = (row[1:] - row[:-1]).abs()[20:-20]
    step = 2 / 39  # of one window's own answer
    assert inner.max() < 4 * step  # from +1 back to −1 within the overlap of 16 pixels: 2/16 a pixel and its own slope


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (31, 33)])
@pytest.mark.parametrize("sliding", [False, True])
def test_images_smaller_than_the_network_takes(size, sliding):
    torch.manual_seed(0)
    network = rmt.segmenter("upernet", rmt.create_model("rmt_pico", **TINY), 3, head_args=dict(channels=8)).eval()
    got = answer(network, image(*size), sliding=sliding, window=32, stride=21)
    assert got.shape == size
    assert got.dtype == torch.uint8


def test_answers_are_enlarged_to_the_asked_size_before_classes_are_chosen(monkeypatch):
    network, pixels = Local().eval(), image(40, 60)
    expected = F.interpolate(network(normalised(pixels)[None]), (97, 133), mode="bilinear", align_corners=False)
    for bands in (2**25, 1, 5000):
        monkeypatch.setattr(module, "_BAND_VALUES", bands)
        for sliding in (False, True):
            got = answer(network, pixels, (97, 133), sliding=sliding, window=32, stride=21)
            assert (got == expected[0].argmax(0)).float().mean() > 0.9999
    smaller = F.interpolate(network(normalised(pixels)[None]), (13, 20), mode="bilinear", align_corners=False)
    assert torch.equal(answer(network, pixels, (13, 20)), smaller[0].argmax(0).to(torch.uint8))


def test_flip_and_scales_average_probabilities():
    network = Around().eval()
    pixels = image(48, 64)
    x = normalised(pixels)[None]
    total = torch.zeros(1, 5, 48, 64)
    with torch.no_grad():
        for scale in (0.75, 1.5):
            scaled = F.interpolate(x, (round(48 * scale), round(64 * scale)), mode="bilinear", align_corners=False)
            for flip in (False, True):
                logits = network(scaled.flip(3)).flip(3) if flip else network(scaled)
                total += F.interpolate(logits, (48, 64), mode="bilinear", align_corners=False).softmax(1)
    got = answer(network, pixels, flip=True, scales=(0.75, 1.5))
    assert (got == total[0].argmax(0)).float().mean() > 0.999
    assert not torch.equal(got, answer(network, pixels))


def test_windows_go_through_the_network_together_and_nothing_larger_does():
    network = Local().eval()
    answer(network, image(100, 100), sliding=True, window=40, stride=30, batch=4)
    assert {shape[2:] for shape in network.seen} == {(40, 40)}
    assert max(shape[0] for shape in network.seen) == 3  # windows of a row


@pytest.mark.parametrize(
    "wrong", [dict(batch=0), dict(scales=()), dict(scales=(0.0,)), dict(window=16), dict(stride=0), dict(stride=600)]
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(rmt.RMTError, match="must be"):
        InferenceOptions(**wrong)


def test_the_first_rows_of_a_window_do_not_count_inside_the_image():
    """Zero padding can change them a lot: here by 50, for 6 pixels at each border of a window."""

    class Bordered(torch.nn.Module):
        num_classes = 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(x), 2, *x.shape[2:])
            logits[:, 0] = 1
            for side in (slice(0, 6), slice(-6, None)):
                logits[:, 1, side] = logits[:, 1, :, side] = 50
            return logits

    image, options = torch.zeros(3, 160, 224, dtype=torch.uint8), InferenceOptions(True, 96, 32)
    labels = segment(Bordered(), image, (160, 224), mean=[0.5] * 3, std=[0.5] * 3, inference=options)
    inner = labels[6:-6, 6:-6]
    assert not inner.any() and labels[:6].all()
