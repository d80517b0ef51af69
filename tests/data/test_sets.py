"""Subsets, other class lists, and the stratified hold-out."""

import numpy as np
import pytest
from helpers.image_sets import MemorySet
from hypothesis import given
from hypothesis import strategies as st

from rmt.data.sets import Subset, hold_out, with_classes
from rmt.errors import RMTError


class Sized(MemorySet):
    """A set with `sizes[k]` images of class k, mixed."""

    def __init__(self, sizes: list[int]):
        super().__init__(sum(sizes))
        self.labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
        self.classes = tuple(f"c{k}" for k in range(len(sizes)))


def test_subset_of_a_subset():
    inner = Subset(Subset(MemorySet(20), range(10, 20)), [3, 0])
    assert [inner.name(i) for i in range(2)] == ["memory/13", "memory/10"]
    assert inner.labels.tolist() == [1, 1]
    assert inner.load(0).getpixel((0, 0)) == (13, 13, 13)
    assert inner.classes == MemorySet.classes
    assert len(Subset(MemorySet(3), [])) == 0
    for wrong in ([20], [-1]):
        with pytest.raises(IndexError):
            Subset(MemorySet(20), wrong)


def test_with_classes_counts_by_name():
    changed = with_classes(MemorySet(4), ["dog", "cat", "bee", "ant"])
    assert changed.classes == ("dog", "cat", "bee", "ant")
    assert changed.labels.tolist() == [3, 2, 1, 3]
    assert changed.load(2).getpixel((0, 0)) == (2, 2, 2)
    same = MemorySet(4)
    assert with_classes(same, list(same.classes)) is same
    with pytest.raises(RMTError, match="does not know: ant, cat"):
        with_classes(MemorySet(4), ["bee"])


def test_hold_out_is_pinned():
    """A seed must split a folder the same way next year: a changed split leaks training images into validation."""
    _, held = hold_out(MemorySet(30), 6, seed=1)
    assert held.indices.tolist() == [0, 10, 18, 23, 25, 26]


def test_hold_out_depends_on_the_seed_alone():
    first, again, other = (hold_out(MemorySet(300), 0.1, seed)[1].indices.tolist() for seed in (0, 0, 1))
    assert first == again != other


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.data())
def test_hold_out_is_exact_and_stratified(sizes: list[int], data: st.DataObject):
    whole = Sized(sizes)
    most = sum(size - 1 for size in sizes)
    if most == 0:
        return
    count = data.draw(st.integers(1, most))
    rest, held = hold_out(whole, count, seed=data.draw(st.integers(0, 3)))
    assert len(held) == count
    assert sorted([*rest.indices, *held.indices]) == list(range(len(whole)))
    assert (np.diff(rest.indices) > 0).all()
    assert (np.diff(held.indices) > 0).all()
    got = np.bincount(held.labels, minlength=len(sizes))
    share = count * np.array(sizes) / sum(sizes)
    assert (got < sizes).all()
    if (np.ceil(share) < sizes).all():  # else a class gives less, to keep one, and others make up for it
        assert (np.abs(got - share) < 1).all()


def test_fraction_and_its_mistakes():
    rest, held = hold_out(MemorySet(100), 0.25, seed=0)
    assert (len(rest), len(held)) == (75, 25)
    for amount in (0, 98, 100, 0.0, 1.0, -0.5, 0.001):
        with pytest.raises(RMTError):
            hold_out(MemorySet(100), amount, seed=0)
