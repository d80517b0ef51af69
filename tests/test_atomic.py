"""Errors of the disk, however a library wraps them, become one line with a remedy."""

import contextlib
import errno
import os
import re
from pathlib import Path

import pytest

from rmt.atomic import disk_errors_as_rmt_error, replace_file, write_text
from rmt.errors import RMTError
from rmt.output_folder import require_empty


def raise_below(error: OSError) -> None:
    """Raises what torch's writer does on a full disk: an error of its own while the disk's is handled."""
    try:
        raise error
    except OSError:
        raise RuntimeError("unexpected pos 576 vs 534")  # noqa: B904 - the context is the point


def test_a_full_disk_below_another_error_is_named(tmp_path):
    with pytest.raises(RMTError, match=f"cannot write {tmp_path}/a: the disk is full"), replace_file(tmp_path / "a"):
        raise_below(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert list(tmp_path.iterdir()) == []


def test_errors_that_are_not_the_disk_s_stay_as_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="unexpected pos"), disk_errors_as_rmt_error(tmp_path):
        raise_below(FileNotFoundError(errno.ENOENT, "handled long ago"))
    with pytest.raises(RMTError, match="^as it was$"), disk_errors_as_rmt_error(tmp_path):
        raise RMTError("as it was")


def test_a_failed_write_leaves_the_old_file(tmp_path):
    write_text(tmp_path / "a", "old")
    with contextlib.suppress(KeyError), replace_file(tmp_path / "a") as draft:
        draft.write_text("new")
        raise KeyError
    assert (tmp_path / "a").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", [".", "/", ".."])
def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RMTError, match=rf"^cannot write {re.escape(name)}: "):
        write_text(Path(name), "text")


def test_an_output_whose_name_is_no_text_is_refused(tmp_path):
    with pytest.raises(RMTError, match="the name is not UTF-8; choose another folder"):
        require_empty(tmp_path / os.fsdecode(b"\xff"))
    require_empty(tmp_path / "é")
