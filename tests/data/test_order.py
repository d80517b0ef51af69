"""Who sees which sample when: partitions, equal steps, and repeated augmentation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timm.data.distributed_sampler import RepeatAugSampler

from rmt.data.order import REPEAT_ROUND, EpochPlan, FixedLengthEpochs
from rmt.errors import RMTError


def dealt(plan: dict, world_size: int, epoch: int = 0) -> list[list[np.ndarray]]:
    """The samples of each batch, for each rank."""
    every = []
    for rank in range(world_size):
        one = EpochPlan(**plan, rank=rank, world_size=world_size)
        order = one.order(epoch)
        every.append([order[one.batch(step)] for step in range(one.steps)])
    return every


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 5))
def test_evaluation_counts_every_sample_once(samples: int, batch_size: int, world_size: int):
    ranks = dealt({"samples": samples, "batch_size": batch_size, "shuffle": False}, world_size)
    assert sorted(np.concatenate([batch for rank in ranks for batch in rank])) == list(range(samples))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(len(batch) <= batch_size for rank in ranks for batch in rank)
    assert all(len(batch) == batch_size for rank in ranks for batch in rank[:-1])


@given(st.integers(1, 400), st.integers(1, 40), st.integers(1, 5), st.booleans())
def test_training_never_repeats_and_leaves_out_less_than_a_step(samples: int, batch: int, world: int, drop_last: bool):
    plan = {"samples": samples, "batch_size": batch, "shuffle": True, "drop_last": drop_last}
    unit = batch * world if drop_last else world
    if samples < unit:
        with pytest.raises(RMTError, match="lower the batch size"):
            EpochPlan(**plan, world_size=world)
        return
    ranks = dealt(plan, world)
    seen = np.concatenate([part for rank in ranks for part in rank])
    assert len(set(seen.tolist())) == len(seen)
    assert 0 <= samples - len(seen) < unit
    sizes = [[len(part) for part in rank] for rank in ranks]
    assert all(rank == sizes[0] for rank in sizes)
    assert not drop_last or set(sizes[0]) == {batch}


@given(st.integers(1, 3), st.integers(1, 4))
def test_many_processes_see_in_each_step_what_one_sees(batch_size: int, world_size: int):
    plan = {"samples": 50, "shuffle": True, "drop_last": True, "seed": 7}
    one = dealt(plan | {"batch_size": batch_size * world_size}, 1)[0]
    many = dealt(plan | {"batch_size": batch_size}, world_size)
    for step, batch in enumerate(one):
        np.testing.assert_array_equal(batch, np.stack([rank[step] for rank in many], axis=1).reshape(-1))


def test_epochs_and_seeds_differ_and_repeat():
    orders = {
        (seed, epoch): tuple(EpochPlan(samples=50, batch_size=5, shuffle=True, seed=seed).order(epoch))
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == 9
    assert tuple(EpochPlan(samples=50, batch_size=9, shuffle=True, seed=2).order(1)) == orders[2, 1]


def test_order_is_pinned():
    """A run must resume in the order it was started in, also under another version of numpy."""
    assert EpochPlan(samples=8, batch_size=2, shuffle=True, seed=3).order(2).tolist() == [5, 1, 3, 7, 4, 6, 2, 0]


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("samples", [256, 700, 1000])
def test_repeated_augmentation_is_deits(samples: int, world_size: int):
    """Each shuffled index three times in a row, dealt round-robin, cut to ⌊N/256⌋·256, step by step."""
    plan = EpochPlan(samples=samples, batch_size=16, shuffle=True, repeats=3)
    shuffled = list(dict.fromkeys(plan.order(0).tolist()))
    sequence = [index for index in shuffled for _ in range(3)][: samples // 256 * 256]
    assert plan.order(0).tolist() == sequence
    assert len(sequence) == samples // REPEAT_ROUND * REPEAT_ROUND
    ranks = dealt({"samples": samples, "batch_size": 16, "shuffle": True, "repeats": 3}, world_size)
    for rank, batches in enumerate(ranks):
        mine = sequence[rank::world_size][: len(sequence) // world_size]
        assert np.concatenate(batches).tolist() == mine
    # timm's sampler, which the published trainings used: the same number of views of as many images
    theirs = [list(RepeatAugSampler(range(samples), world_size, rank)) for rank in range(world_size)]
    assert [len(one) for one in theirs] == [sum(map(len, batches)) for batches in ranks]
    if len(sequence) % world_size == 0:
        ours = np.concatenate([part for rank in ranks for part in rank])
        assert views(np.concatenate(theirs)) == views(ours)


def views(indices: np.ndarray) -> list[int]:
    return sorted(np.unique(indices, return_counts=True)[1].tolist())


def test_mistakes():
    with pytest.raises(RMTError, match="at least 256 training images, there are 255: add --no-repeated-augmentation"):
        EpochPlan(samples=255, batch_size=4, shuffle=True, repeats=3)
    with pytest.raises(RMTError, match="seed"):
        EpochPlan(samples=10, batch_size=4, shuffle=True, seed=-1)
    for wrong in ({"drop_last": True}, {"repeats": 3}, {"rank": 1}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=r"evaluation|at least"):
            EpochPlan(**({"samples": 10, "batch_size": 4, "shuffle": False} | wrong))


@pytest.mark.parametrize("steps", [2, 7, 12])
def test_epochs_of_fixed_length_cut_the_passes_over_the_data_anew(steps):
    plan = EpochPlan(samples=23, batch_size=2, shuffle=True, seed=3, drop_last=True, rank=1, world_size=2)
    endless = [(e, p.tolist(), s.tolist()) for epoch in range(20) for e, p, s in plan.keys(epoch)]
    epochs = FixedLengthEpochs(plan, steps)
    seen = [(e, p.tolist(), s.tolist()) for epoch in range(6) for e, p, s in epochs.keys(epoch)]
    assert seen == endless[: 6 * steps]
    later = [(e, p.tolist(), s.tolist()) for e, p, s in epochs.keys(4, start=1)]
    assert later == endless[4 * steps + 1 : 5 * steps]


@pytest.mark.parametrize("world_size", [1, 3])
def test_groups_stay_together_and_lose_nobody(world_size):
    groups = np.random.default_rng(0).integers(0, 2, 100)
    plans = [
        EpochPlan(samples=100, batch_size=4, shuffle=True, seed=1, groups=groups, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    order = plans[0].order(0)
    assert len(set(order.tolist())) == len(order) == plans[0].positions
    mixed = [
        step
        for step in range(plans[0].steps)
        if len({int(groups[order[p]]) for plan in plans for p in plan.batch(step)}) > 1
    ]
    assert all(step >= plans[0].steps - 2 for step in mixed)
    assert not np.array_equal(order, plans[0].order(1)) and np.array_equal(order, plans[0].order(0))
    firsts = [int(groups[order[step * 4 * world_size]]) for step in range(plans[0].steps - 2)]
    assert firsts not in (sorted(firsts), sorted(firsts, reverse=True))  # the groups take turns


def test_by_class_shows_every_class_equally_often():
    classes = np.array([0] * 20 + [1] * 5 + [2] * 2)
    plan = EpochPlan(samples=27, batch_size=3, shuffle=True, seed=1, balance=classes)
    epochs = [plan.order(epoch) for epoch in range(2)]
    for order in epochs:
        assert len(order) == 27 and set(np.bincount(classes[order])) == {9}
        assert all(sorted(classes[order[i : i + 3]]) == [0, 1, 2] for i in range(0, 27, 3))  # in every batch
        assert set(np.bincount(order)[25:]) <= {4, 5}  # the two of the smallest class
        assert np.bincount(order)[:20].max() == 1  # of the largest class none twice
    assert epochs[0].tolist() != epochs[1].tolist()
    again = EpochPlan(samples=27, batch_size=3, shuffle=True, seed=1, balance=classes)
    assert again.order(1).tolist() == epochs[1].tolist()
    parts = [
        EpochPlan(samples=27, batch_size=1, shuffle=True, seed=1, balance=classes, rank=r, world_size=3)
        for r in range(3)
    ]
    assert np.stack([epochs[0][part.batch(0)] for part in parts]).ravel().tolist() == epochs[0][:3].tolist()
