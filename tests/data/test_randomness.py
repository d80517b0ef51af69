"""Draws that repeat: known ones, which no later version may change, and what seeding leaves alone."""

import random

import numpy as np
import pytest
import torch

from rmt.data.randomness import AUGMENT, preserve_rng_state, seed_process, seed_sample, seed_words


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002 - what is tested


def test_known_draws_of_a_step_and_of_a_sample():
    seed_process(3, 1, 4, 1)
    step = draws()
    seed_sample(seed_words(AUGMENT, 3, 1, 4))
    sample = draws()
    assert step == pytest.approx((0.9301053290484268, 0.8294854487423389, 0.21175616979599), rel=1e-7)
    assert sample == pytest.approx((0.8779896659208147, 0.3520857742295316, 0.8179962635040283), rel=1e-7)


@pytest.mark.parametrize("place", range(4))
def test_every_key_counts(place):
    keys = [3, 1, 4, 1]
    seed_process(*keys)
    before = draws()
    keys[place] += 1
    seed_process(*keys)
    assert not set(before) & set(draws())


def test_a_sample_s_draws_leave_the_step_s_alone():
    seed_process(0)
    expected = draws()
    seed_process(0)
    with preserve_rng_state():
        seed_sample(seed_words(AUGMENT, 0, 0, 0))
        draws()
    assert draws() == expected
