import os
import resource
import signal

import pytest
import torch

from rmt.errors import RMTError
from rmt.training.checkpoints import io as checkpoint_io
from rmt.training.checkpoints.io import AtomicCheckpointIO, load_newest_state, previous, read_state

STATE = {"step": 3, "weights": {"a": torch.arange(1000.0)}, "rates": [0.1, 0.2], "none": None}


def save(path, step):
    AtomicCheckpointIO().save_checkpoint({**STATE, "step": step}, path)


def test_a_state_comes_back(tmp_path):
    path = tmp_path / "last.ckpt"
    save(path, 3)
    state = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])
    assert {k: v for k, v in state.items() if k != "weights"} == {k: v for k, v in STATE.items() if k != "weights"}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_torch_can_read_the_file_by_itself(tmp_path):
    save(tmp_path / "last.ckpt", 3)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["step"] == 3


def test_the_state_before_is_kept(tmp_path):
    path = tmp_path / "last.ckpt"
    for step in (1, 2, 3):
        save(path, step)
    assert read_state(path)["step"] == 3
    assert read_state(previous(path))["step"] == 2


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_newest_state_is_reported_and_the_one_before_used(tmp_path, share):
    path = tmp_path / "last.ckpt"
    save(path, 1)
    save(path, 2)
    os.truncate(path, int(path.stat().st_size * share))
    state, complaint = load_newest_state(path)
    assert state["step"] == 1
    assert "last.ckpt" in complaint
    assert "\n" not in complaint
    save(path, 3)  # the damaged one must not have become the previous one
    assert read_state(previous(path))["step"] == 1


def test_a_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "last.ckpt"
    save(path, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RMTError, match="checksum"):
        read_state(path)


def test_no_state_at_all(tmp_path):
    assert load_newest_state(tmp_path / "last.ckpt") == (None, "")


@pytest.mark.parametrize("moment", ["save", "sync", "replace"])
def test_a_kill_inside_a_save_leaves_the_old_state_whole(tmp_path, monkeypatch, moment):
    path = tmp_path / "last.ckpt"
    save(path, 1)

    class Killed(BaseException):
        pass

    def die(*args, **kwargs):
        raise Killed

    where = {"save": (torch, "save"), "sync": (os, "fsync"), "replace": (os, "replace")}[moment]
    with monkeypatch.context() as patch:
        patch.setattr(*where, die)
        with pytest.raises(Killed):
            save(path, 2)
    state, complaint = load_newest_state(path)
    assert (state["step"], complaint) == (1, "")


def test_a_full_disk_ends_in_one_line_and_leaves_the_old_state_whole(tmp_path):
    path = tmp_path / "last.ckpt"
    save(path, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then a write beyond the limit fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        with pytest.raises(RMTError, match=r"cannot write .*last\.ckpt"):
            save(path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert read_state(path)["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_state_that_would_run_code_is_refused(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(marker),)

    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"step": Evil()}, path)
    with pytest.raises(RMTError, match="refused"):
        read_state(path)
    assert not marker.exists()


def test_without_hard_links_the_previous_state_is_kept_too(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no hard links here")

    monkeypatch.setattr(checkpoint_io.os, "link", refuse)
    path = tmp_path / "last.ckpt"
    save(path, 1)
    save(path, 2)
    assert (read_state(path)["step"], read_state(previous(path))["step"]) == (2, 1)
