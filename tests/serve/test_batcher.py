"""Batches: what is together, how long it waits, and that one item at fault costs no other its answer."""

import threading
import time

import pytest

from rmt.serve.batcher import Batcher


class Recorder:
    """Squares numbers, and notes the batches; stands still while `gate` is closed."""

    def __init__(self):
        self.batches, self.gate = [], threading.Event()
        self.gate.set()

    def __call__(self, kind, items):
        self.gate.wait(10)
        self.batches.append((kind, list(items)))
        if "fault" in items:
            raise ValueError("one of them is at fault")
        return [item * item for item in items]


def blocked(max_batch=4, max_wait=0.0):
    """A batcher whose first batch, of the number 0, stands still."""
    compute = Recorder()
    batcher = Batcher(compute, max_batch, max_wait)
    compute.gate.clear()
    first = batcher.submit("a", 0)
    while len(batcher):
        time.sleep(0.001)
    return batcher, compute, first


def test_what_collects_while_the_network_is_busy_goes_together():
    batcher, compute, _ = blocked()
    found = [batcher.submit("a", number) for number in range(1, 7)]
    compute.gate.set()
    assert [future.result(5) for future in found] == [1, 4, 9, 16, 25, 36]
    assert compute.batches == [("a", [0]), ("a", [1, 2, 3, 4]), ("a", [5, 6])]
    batcher.close()


def test_other_kinds_of_work_keep_their_place():
    batcher, compute, _ = blocked()
    for kind, number in (("a", 1), ("b", 2), ("a", 3), ("b", 4)):
        batcher.submit(kind, number)
    compute.gate.set()
    batcher.close()
    assert compute.batches[1:] == [("a", [1, 3]), ("b", [2, 4])]


def test_one_at_fault_costs_no_other_its_answer():
    batcher, compute, _ = blocked()
    good, bad, other = (batcher.submit("a", item) for item in (2, "fault", 3))
    compute.gate.set()
    assert (good.result(5), other.result(5)) == (4, 9)
    with pytest.raises(ValueError, match="at fault"):
        bad.result(5)
    batcher.close()


def test_cancelled_items_are_not_computed_and_closing_finishes_the_rest():
    batcher, compute, first = blocked()
    gone, kept = batcher.submit("a", 8), batcher.submit("a", 9)
    assert gone.cancel()
    threading.Timer(0.05, compute.gate.set).start()
    batcher.close()
    assert (first.result(0), kept.result(0)) == (0, 81)
    assert compute.batches[1:] == [("a", [9])]
    with pytest.raises(RuntimeError, match="closed"):
        batcher.submit("a", 1)


def test_an_idle_network_waits_for_others_no_longer_than_it_may():
    compute = Recorder()
    batcher = Batcher(compute, 2, 0.15)
    began = time.monotonic()
    assert batcher.submit("a", 3).result(5) == 9
    assert time.monotonic() - began >= 0.14
    one, two = batcher.submit("a", 1), batcher.submit("a", 2)
    assert one.result(5) + two.result(5) == 5
    assert compute.batches == [("a", [3]), ("a", [1, 2])]
    batcher.close()
