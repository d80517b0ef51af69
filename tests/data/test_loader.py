"""Batches depend on (seed, epoch, position) alone: not on workers, ranks, what came before, or the global state."""

import itertools
import multiprocessing
import os
import pickle
import random
import select
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from helpers.image_sets import MemorySet
from PIL import Image

from rmt.data.image_loader import ImageLoader
from rmt.data.loader import MAX_REPLACEMENTS, _fits_shared_memory
from rmt.data.sets import Subset
from rmt.data.splits import open_splits
from rmt.data.transforms import train_transform
from rmt.errors import RMTError


class Noise:
    """The grey value, and a draw from each of the three global generators: (3, 1, 4)."""

    size = (1, 4)

    def __call__(self, image: Image.Image) -> torch.Tensor:
        grey = image.getpixel((0, 0))[0]
        values = [grey, random.random(), np.random.random(), float(torch.rand(()))]  # noqa: NPY002
        return torch.tensor(values).expand(3, 1, 4)


class Fatal(Noise):
    """Kills the process that makes an image of the grey value 20, unless that is this one."""

    def __init__(self) -> None:
        self.home = os.getpid()

    def __call__(self, image: Image.Image) -> torch.Tensor:
        if image.getpixel((0, 0))[0] == 20 and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(image)


class Slow(Noise):
    def __call__(self, image: Image.Image) -> torch.Tensor:
        time.sleep(0.005)
        return super().__call__(image)


def loader(count: int = 50, broken: tuple[int, ...] = (), **options) -> ImageLoader:
    chosen = {"batch_size": 8, "shuffle": True, "seed": 5} | options
    transform = chosen.pop("transform", Noise())
    return ImageLoader(MemorySet(count, broken), transform, **chosen)


def same(ours: list[dict], theirs: list[dict]) -> bool:
    keys = ("image", "label", "index")
    return len(ours) == len(theirs) and all(
        a["bad"] == b["bad"] and all(torch.equal(a[key], b[key]) for key in keys)  # type: ignore[literal-required]
        for a, b in zip(ours, theirs, strict=True)
    )


def test_a_batch():
    batches = list(loader())
    assert [len(batch["label"]) for batch in batches] == [8] * 6 + [2]
    assert len(loader()) == 7
    for batch in batches:
        assert batch["image"].shape == (len(batch["label"]), 3, 1, 4)
        assert (batch["image"].dtype, batch["label"].dtype, batch["index"].dtype) == (
            torch.float32,
            torch.int64,
            torch.int64,
        )
        assert torch.equal(batch["image"][:, 0, 0, 0], batch["index"].float())
        assert torch.equal(batch["label"], batch["index"] % 3)
        assert batch["bad"] == []
    assert sorted(torch.cat([batch["index"] for batch in batches]).tolist()) == list(range(50))
    draws = torch.cat([batch["image"][:, 0, 0, 1:] for batch in batches])
    assert len(draws.unique()) == 150


def test_workers_make_the_same_batches():
    whole = open_splits("sample").train
    transform = train_transform(32, auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.5, pad_to=32)
    made = []
    for workers in (0, 1, 2):
        one = ImageLoader(Subset(whole, range(30)), transform, batch_size=8, shuffle=True, seed=1, workers=workers)
        epochs = []
        for epoch in range(2):
            one.set_epoch(epoch)
            epochs.append(list(one))
        one.close()
        assert not same(*epochs)
        made.append(epochs[0] + epochs[1])
    assert same(made[0], made[1])
    assert same(made[0], made[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_gives_the_rest(workers: int):
    whole = loader(workers=workers)
    whole.set_epoch(3)
    batches = list(whole)
    assert whole.state_dict()["batches"] == 7
    for stop in (0, 1, 4, 7):
        first = loader(workers=workers)
        first.set_epoch(3)
        seen = list(itertools.islice(first, stop))
        state = pickle.loads(pickle.dumps(first.state_dict()))
        assert (state["epoch"], state["batches"]) == (3, stop)
        second = loader(workers=workers)
        second.load_state_dict(state)
        assert second.state_dict() == state
        second.set_epoch(3)  # as a trainer does at the start of every epoch
        assert len(second) == 7
        assert same(seen + list(second), batches)
        assert same(list(second), batches)  # once resumed, an epoch shown again is whole
        second.set_epoch(4)
        assert not same(list(second), batches)
        first.close()
        second.close()


def test_the_state_counts_the_batch_in_hand():
    one = loader(workers=2)
    for number, _ in enumerate(one, start=1):
        assert one.state_dict()["batches"] == number  # however many the workers have made ahead
    one.close()


def test_an_epoch_broken_off_starts_again():
    one = loader(workers=1)
    whole = list(one)
    next(iter(one))
    assert same(list(one), whole)
    one.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_second_iteration_ends_the_first(workers: int):
    one = loader(workers=workers)
    first = iter(one)
    next(first)
    second = iter(one)
    next(second)
    with pytest.raises(RuntimeError, match="another iteration"):
        next(first)
    assert len(list(second)) == 6
    one.close()


def test_resuming_with_other_data_is_refused():
    state = loader(50).state_dict()
    with pytest.raises(RMTError, match="cannot resume: 50 samples per epoch when the run was stopped, 49 now"):
        loader(49).load_state_dict(state)
    with pytest.raises(RMTError, match="7 steps per epoch when the run was stopped, 4 now"):
        loader(50, batch_size=16).load_state_dict(state)
    with pytest.raises(RMTError, match="cannot resume at batch 9 of an epoch of 7"):
        loader(50).load_state_dict({"epoch": 0, "batches": 9})


def test_draws_depend_on_the_position_not_on_the_processes():
    one = list(loader(batch_size=8, drop_last=True))
    two = [list(loader(batch_size=4, drop_last=True, rank=rank, world_size=2)) for rank in range(2)]
    for step, batch in enumerate(one):
        for rank in range(2):
            assert torch.equal(batch["image"][rank::2], two[rank][step]["image"])


def test_repeated_augmentation_shows_three_different_views():
    images = torch.cat([batch["image"] for batch in loader(256, repeats=3, batch_size=32)])[:, 0, 0]
    assert len(images) == 256
    assert torch.equal(images[0:255:3, 0], images[1:255:3, 0])
    assert torch.equal(images[0:255:3, 0], images[2:255:3, 0])
    assert len(images[:, 1].unique()) == 256


def test_seed_and_epoch_change_order_and_draws():
    made = []
    for seed, epoch in ((0, 0), (1, 0), (0, 1)):
        one = loader(seed=seed)
        one.set_epoch(epoch)
        made.append(torch.cat([batch["image"] for batch in one])[:, 0, 0])
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(made[a][:, 0], made[b][:, 0])
        assert len(torch.cat([made[a][:, 1:], made[b][:, 1:]]).unique()) == 300


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("shuffle", [False, True])
def test_the_global_random_state_is_left_alone(workers: int, shuffle: bool):
    def state() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    random.seed(1)
    before = state()
    one = loader(workers=workers, shuffle=shuffle, broken=(3,))
    for _ in one:
        assert state() == before
    one.close()
    assert state() == before


def test_batches_do_not_depend_on_the_global_random_state():
    torch.manual_seed(1)
    first = list(loader())
    random.seed(99)
    assert same(list(loader()), first)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_replaced_in_training(workers: int):
    one = loader(broken=(7, 30), workers=workers)
    batches = list(one)
    whole = list(loader())
    for batch, original in zip(batches, whole, strict=True):
        bad = np.isin(original["index"], (7, 30))
        assert torch.equal(batch["index"][~bad], original["index"][~bad])
        assert torch.equal(batch["image"][~bad], original["image"][~bad])
        assert {name for name, _ in batch["bad"]} == {f"memory/{i}" for i in original["index"][bad].tolist()}
        assert not np.isin(batch["index"], (7, 30)).any()
        assert torch.equal(batch["image"][:, 0, 0, 0], batch["index"].float())
        assert torch.equal(batch["label"], batch["index"] % 3)
    assert [bad for batch in batches for bad in batch["bad"]].count(("memory/7", "broken on purpose")) == 1
    assert same(list(one), batches)
    one.close()


def test_replacements_are_spread_over_the_good_images():
    batches = list(loader(60, broken=tuple(range(0, 60, 2))))
    shown = torch.cat([batch["index"] for batch in batches])
    assert len(shown) == 60
    replacements = shown.bincount(minlength=60)[1::2] - 1  # the good ones are shown once of right
    assert replacements.sum() == 30
    assert replacements.max() <= 8


def test_a_bad_image_is_left_out_of_an_evaluation():
    batches = list(loader(20, broken=(0, 8, 9, 10, 11, 12, 13, 14, 15), shuffle=False))
    assert [batch["index"].tolist() for batch in batches] == [list(range(1, 8)), [], list(range(16, 20))]
    assert batches[1]["image"].shape == (0, 3, 1, 4)
    assert [len(batch["bad"]) for batch in batches] == [1, 8, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_only_bad_images_end_the_run_in_one_line(workers: int):
    one = loader(30, broken=tuple(range(30)), workers=workers)
    with pytest.raises(
        RMTError, match=f"{MAX_REPLACEMENTS} images in a row could not be read, the last one memory"
    ) as caught:
        list(one)
    assert "\n" not in str(caught.value)
    one.close()


def test_a_dead_worker_ends_the_run_in_one_line():
    handler = signal.getsignal(signal.SIGCHLD)
    one = loader(200, transform=Fatal(), workers=2)
    started = time.monotonic()
    with pytest.raises(RMTError, match=r"data worker (\d of 2 \(pid \d+\) by SIGKILL(, )?)+ died") as caught:
        list(one)
    assert time.monotonic() - started < 20
    assert "\n" not in str(caught.value)
    assert signal.getsignal(signal.SIGCHLD) == handler


def test_batches_come_through_pipes_where_shared_memory_is_small(monkeypatch, capsys):
    expected = list(loader(workers=2))
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("rmt.data.loader._fits_shared_memory", lambda batch, workers: False)
    piped = loader(workers=2)
    assert same([*piped, *piped][len(expected) :], expected)
    assert capsys.readouterr().err.count("/dev/shm is too small for the batches of 2 workers") == 1  # said once


def test_the_space_that_batches_need(tmp_path, monkeypatch):
    free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    small, large = torch.empty(1000), torch.empty(free // 2, device="meta")
    assert _fits_shared_memory({"image": small, "bad": []}, 2)
    assert not _fits_shared_memory({"boxes": [small, large]}, 2)
    monkeypatch.setattr("rmt.data.loader._SHARED_MEMORY", str(tmp_path / "absent"))
    assert _fits_shared_memory({"image": large}, 2)


def test_a_batch_that_cannot_be_sent_ends_the_run_in_one_line():
    one = loader(workers=1)
    one._pool.dataset.collate = lambda entries, indices: {"image": lambda: 0}  # no pickle holds it
    with pytest.raises(RMTError, match=r"data worker 0 of 1 \(pid \d+\) with status 28 died; .*/dev/shm is full"):
        list(one)


def test_workers_outlive_stop_signals_and_end_with_close():
    one = loader(400, transform=Slow(), workers=2)
    others = set(multiprocessing.active_children())
    batches = iter(one)
    seen = [next(batches)]
    mine = set(multiprocessing.active_children()) - others
    assert len(mine) == 2
    pids = " ".join(str(worker.pid) for worker in mine)
    subprocess.run(f"kill -TERM {pids}; kill -INT {pids}", shell=True, check=True)  # from another process
    seen += batches
    assert len(seen) == 50
    batches = iter(one)
    next(batches)
    one.close()
    for worker in mine:
        assert worker.exitcode == 0
    with pytest.raises(RuntimeError, match="it was closed"):
        next(batches)
    assert len(list(one)) == 50  # with new workers
    for worker in set(multiprocessing.active_children()) - others:
        worker.terminate()  # as Python does at exit
        worker.join(10)
        assert worker.exitcode == 0
    one.close()


def test_workers_end_with_a_training_process_that_is_killed(monkeypatch):
    """Though they ignore SIGTERM, and a batch waits in the pipe to it."""

    class Large(Noise):
        def __call__(self, image: Image.Image) -> torch.Tensor:
            return torch.zeros(3, 64, 64)

    def train() -> None:
        os.setpgrp()
        one = loader(transform=Large(), workers=2)
        next(iter(one))
        os.write(theirs, b"x")
        signal.pause()

    monkeypatch.setattr("rmt.data.loader._fits_shared_memory", lambda batch, workers: False)
    ours, theirs = os.pipe()
    training = multiprocessing.get_context("fork").Process(target=train)
    training.start()
    os.close(theirs)
    assert os.read(ours, 1) == b"x"
    training.kill()
    ended = select.select([ours], [], [], 10)[0] and os.read(ours, 1) == b""  # no process has the other end any more
    os.killpg(training.pid, signal.SIGKILL)  # nothing stays, whatever was found
    training.join()
    os.close(ours)
    assert ended


def test_a_worker_can_be_started_afresh():
    """Where processes are spawned (macOS) rather than forked, all that a worker needs travels pickled."""
    transform = train_transform(32, auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.5)
    made = ImageLoader(open_splits("sample").train, transform, batch_size=4, shuffle=True)._pool
    travelled = pickle.loads(pickle.dumps((made.dataset, made.collate_fn, made.worker_init_fn)))
    key = (0, np.arange(4), np.arange(4))
    assert same([travelled[0][key]], [made.dataset[key]])


def test_a_fault_of_a_transform_is_not_hidden():
    class Faulty(Noise):
        def __call__(self, image: Image.Image) -> torch.Tensor:
            raise KeyError("a bug")

    for workers in (0, 1):
        one = loader(transform=Faulty(), workers=workers)
        with pytest.raises(KeyError, match="a bug"):
            list(one)
        one.close()
