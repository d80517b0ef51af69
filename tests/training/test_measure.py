"""The time of a step that was not measured is predicted from those that were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmt.training.measure import Measured, Timing, predict

positive = st.floats(1e-3, 1e3)


@given(positive, positive, positive, positive, positive)
def test_two_measured_choices_give_the_constant_part_too(constant, per_work, first, second, asked):
    if abs(second / first - 1) < 0.1:
        return

    def timing(work: float) -> Timing:
        return Timing(constant + 4 * per_work * work, constant + per_work * work)

    known = [Measured(work, 4, timing(work)) for work in (first, second)]
    found, expected = predict(known, asked, 4), timing(asked)
    assert found.step == pytest.approx(expected.step, rel=1e-4) and found.image == pytest.approx(
        expected.image, rel=1e-4
    )


def test_a_larger_batch_is_more_work_for_a_step_but_not_for_an_image():
    known = [Measured(1.0, 4, Timing(1.0, 0.25)), Measured(3.0, 4, Timing(2.0, 0.5))]
    assert predict(known, 1.0, 12) == Timing(2.0, 0.25)


@given(positive, positive, positive)
def test_a_single_one_is_half_constant(seconds, work, asked):
    found = predict([Measured(work, 1, Timing(seconds, seconds))], asked, 1)
    assert found.step == pytest.approx(seconds * (1 + asked / work) / 2) == found.image


@given(positive, positive, positive)
def test_noise_neither_turns_the_line_down_nor_makes_it_steeper_than_the_work(first, second, asked):
    known = [Measured(1.0, 1, Timing(first, first)), Measured(2.0, 1, Timing(second, second))]
    near = min(known, key=lambda measured: abs(measured.work - asked))
    low, high = sorted((near.timing.step, near.timing.step * asked / near.work))
    assert low * (1 - 1e-9) <= predict(known, asked, 1).step <= high * (1 + 1e-9)
