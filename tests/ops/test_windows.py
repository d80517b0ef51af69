"""Windowed attention: the bound holds, also for queries and keys made to break it."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt.ops import MaSAConfig, decay_rates, masa, spatial_prior
from rmt.ops.cpu import backend as native
from rmt.ops.windows import window_radii, window_radius


def weight_outside(logits: torch.Tensor, gamma: float, r: int) -> float:
    """Of a line, for the worst query: softmax of logits (L, L) plus decay, summed beyond r."""
    distance = (torch.arange(len(logits))[:, None] - torch.arange(len(logits))).abs()
    weights = (logits + distance * math.log(gamma)).softmax(-1)
    return (weights * (distance > r)).sum(-1).max().item()


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(2, 90),
    exponent=st.floats(1.0, 8.0),
    tolerance=st.floats(-6, -0.5).map(lambda x: 10**x),
    spread=st.floats(0, 12),
    seed=st.integers(0, 2**31),
)
def test_the_bound_holds_for_the_worst_logits(length, exponent, tolerance, spread, seed):
    """The worst case: all logits outside the window at the top of the spread, all inside at its bottom."""
    gamma = 1 - 2**-exponent
    r = window_radius(gamma, length, tolerance, spread)
    distance = (torch.arange(length)[:, None] - torch.arange(length)).abs()
    worst = spread * (distance > r).double()
    chance = spread * torch.rand(length, length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    assert weight_outside(worst, gamma, r) <= tolerance * (1 + 1e-9)
    assert weight_outside(chance, gamma, r) <= tolerance * (1 + 1e-9)


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_the_window_is_no_larger_than_it_must_be(spread):
    """With logits all alike, one token less breaks the tolerance; with a spread, the worst line needs most of it."""
    for gamma in decay_rates(4, (2.0, 6.0)):
        r = window_radius(gamma, 200, 1e-3, spread)
        distance = (torch.arange(200)[:, None] - torch.arange(200)).abs()
        worst = spread * (distance > r - 1).double()
        assert weight_outside(worst, gamma, r - 1) > (1e-3 if spread == 0 else 0.9e-3)


def test_reaches_of_the_published_decay():
    """At 1e-5 and equal logits about 40, 90, 180, 360 tokens; stage 3's widest head about 1,750."""
    assert [window_radius(gamma, 2000, 1e-5, 0.0) for gamma in decay_rates(4, (2.0, 6.0))] == [40, 86, 178, 363]
    assert window_radius(decay_rates(8, (2.0, 8.0))[-1], 4000, 1e-5, 0.0) == 1746


def adversarial(h: int, w: int, spread: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """q, k, v (1, h, w, 2, 16) whose far keys have the largest logits that the norms allow, rotation undone.

    Query and key of one token point apart, of tokens at the two ends of the longer side the same way; values are 0 at
    one end and 1 at the other.
    """
    prior = spatial_prior(h, w, 2, 16, (2.0, 6.0), torch.empty(0))
    shape = (1, h, 1, 1, 1) if h > w else (1, 1, w, 1, 1)
    side = torch.where(torch.arange(max(h, w)) < max(h, w) // 2, 1.0, -1.0).view(shape).expand(1, h, w, 2, 8)
    length = (spread / 2 / 8) ** 0.5  # of each pair, so that ‖q‖·‖k‖ is half the spread

    def unrotated(direction: torch.Tensor) -> torch.Tensor:
        return length * torch.cat((direction * prior.cos, -direction * prior.sin), -1)

    return unrotated(side), unrotated(-side), (side[..., :1] < 0).float().expand(1, h, w, 2, 16).contiguous()


@pytest.mark.parametrize("tolerance", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("spread", [0.5, 4.0])
@pytest.mark.parametrize("decomposed", [True, False], ids=["decomposed", "full"])
def test_the_kernel_keeps_the_tolerance(decomposed, spread, tolerance):
    h, w = (60, 150) if decomposed else (100, 7)
    q, k, v = adversarial(h, w, spread)
    prior = spatial_prior(h, w, 2, 16, (2.0, 6.0), q)
    config = MaSAConfig(decomposed, "released", (2.0, 6.0), 1.0, half_split=True)
    exact = masa.manhattan_attention(q.double(), k.double(), v.double(), prior, config)
    found = native.manhattan_attention(q, k, v, prior, config._replace(tolerance=tolerance))
    radii = window_radii(q, k, 1.0, decay_rates(2, (2.0, 6.0)), tolerance)
    assert radii[0] < max(h, w) - 1, "a window that leaves nothing out tests nothing"
    passes = 2 if decomposed else 1
    assert (found - exact).abs().max() <= passes * tolerance * (v.max() - v.min()) + 1e-5


def test_norms_that_are_no_numbers_see_everything():
    q = torch.full((1, 3, 50, 2, 16), float("nan"))
    assert window_radii(q, q, 1.0, [0.75, 0.9], 1e-2) == [49, 49]
    assert window_radii(q.nan_to_num(1e30), q.nan_to_num(1e30), 1.0, [0.75, 0.9], 1e-2) == [49, 49]
    assert len(window_radii(q[:0], q[:0], 1.0, [0.75, 0.9], 1e-2)) == 2  # no images
