import math

import pytest
import torch

from rmt.training.schedules import UpdateSchedule, poly, step, warm_up


def test_warm_up_is_linear_from_its_start():
    assert [warm_up(i, 4, 0.2) for i in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert warm_up(0, 0, 0.5) == 1


def test_poly_as_the_formula_says():
    base, end, total = 1e-4, 1e-6, 80_000
    for update in (0, 1, 16_000, 79_999):
        expected = (base - end) * (1 - update / total) ** 0.9 + end
        assert math.isclose(base * poly(update, total, 0.9, end / base), expected, rel_tol=1e-12)
    assert poly(total + 1, total, 0.9, 0.01) == 0.01


def test_steps():
    assert [step(i, (8, 11)) for i in (0, 7, 8, 10, 11, 12)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_every_group_follows_its_own_peak_whatever_came_before():
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 1.0}, {"params": [weights[1]], "lr": 0.1}])
    schedule = UpdateSchedule(optimizer, lambda update: warm_up(update, 4, 0.0))
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    optimizer.param_groups[0]["lr"] = 77.0  # as a loaded optimiser state would
    schedule.step_update(2)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5, 0.05])
