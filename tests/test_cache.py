"""The one cache folder, for data and kernels alike, and what happens where it cannot be written."""

import functools
import logging
import os
import re
import sys
from pathlib import Path

import pytest
import torch
from helpers.image_sets import without_privileges

from rmt.cache import cache_folder
from rmt.errors import RMTError
from rmt.ops.cpu import build


@pytest.fixture
def no_home(tmp_path, monkeypatch) -> Path:
    """A home in which nobody can write, root neither; returns the temporary folder."""
    (tmp_path / "file").touch()
    monkeypatch.delenv("RMT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def test_cache_that_cannot_be_written(open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (open_tmp_path / "locked").mkdir(mode=0o555)
    monkeypatch.setenv("RMT_CACHE", str(open_tmp_path / "locked" / "cache"))
    with without_privileges(), pytest.raises(RMTError, match="cannot be written"):
        cache_folder()
    monkeypatch.delenv("RMT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_tmp_path / "locked"))
    (open_tmp_path / "temporary").mkdir()
    (open_tmp_path / "temporary").chmod(0o777)
    monkeypatch.setattr("tempfile.tempdir", str(open_tmp_path / "temporary"))
    with without_privileges():
        assert cache_folder().parent == open_tmp_path / "temporary"
    monkeypatch.setenv("XDG_CACHE_HOME", str(open_tmp_path / "temporary"))
    assert cache_folder() == open_tmp_path / "temporary" / "rmt"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders without owners")
def test_a_temporary_folder_that_others_could_have_filled_is_not_used(no_home):
    folder = cache_folder()
    assert folder.parent == no_home
    folder.chmod(0o777)
    with pytest.raises(RMTError, match="cannot be written; set RMT_CACHE"):
        cache_folder()
    folder.rename(no_home / "elsewhere")
    (no_home / "elsewhere").chmod(0o700)
    folder.symlink_to(no_home / "elsewhere")
    with pytest.raises(RMTError, match="cannot be written; set RMT_CACHE"):
        cache_folder()


def test_kernels_are_built_without_a_home_too(no_home):
    assert build.load.__wrapped__("depthwise.cpp", torch.float32, "KERNEL=3").depthwise_forward
    assert list((cache_folder() / "kernels").glob("depthwise-KERNEL=3-*.so"))


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files without owners")
@pytest.mark.parametrize("open_to_others", ["folder", "file", "link"])
def test_kernels_that_others_could_have_replaced_are_not_loaded(tmp_path, monkeypatch, open_to_others):
    monkeypatch.setenv("RMT_CACHE", str(tmp_path))
    load = functools.partial(build.load.__wrapped__, "depthwise.cpp", torch.float32, "KERNEL=3")
    before = os.umask(0o002)  # of a user with a group of their own
    try:
        assert load().depthwise_forward
    finally:
        os.umask(before)
    (library,) = (tmp_path / "kernels").glob("*.so")
    if open_to_others == "link":
        library.rename(tmp_path / "elsewhere.so")
        library.symlink_to(tmp_path / "elsewhere.so")
    else:
        (library if open_to_others == "file" else library.parent).chmod(0o777)
    with pytest.raises(build.Unavailable, match="own or can write to; delete it, or set RMT_CACHE"):
        load()


@pytest.mark.skipif(sys.platform != "linux", reason="libraries are no ELF files")
@pytest.mark.parametrize("damage", ["cut", "changed", "another", "empty"])
def test_kernels_that_are_damaged_are_compiled_again(tmp_path, monkeypatch, damage):
    """A library that was cut would end the process with SIGBUS, and another one lacks the functions."""
    monkeypatch.setenv("RMT_CACHE", str(tmp_path))
    content = b"\x7fELF, a library"

    def compiled(compiler, source, defines, library):
        library.write_bytes(content)
        build._seal(library)
        made.append(library)

    made: list[Path] = []
    monkeypatch.setattr(build, "_compile", compiled)
    monkeypatch.setattr(build.ctypes, "CDLL", Path)
    load = functools.partial(build.load.__wrapped__, "norm.cpp", torch.float32)
    library = load()
    assert load() == library and len(made) == 1 and library.read_bytes().startswith(content)
    whole = library.read_bytes()
    library.write_bytes(dict(cut=whole[:-1], changed=whole[:9] + b"A" + whole[10:], another=content, empty=b"")[damage])
    assert load() == library and len(made) == 2 and library.read_bytes() == whole


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        (dict(CXX="false"), "false failed: exit code 1"),
        (dict(CXX="/nonexistent/c++"), "the kernels cannot be built or loaded: .*/nonexistent/c..'"),
        (dict(RMT_CACHE="/dev/null/cache"), "/dev/null/cache: the cache folder .RMT_CACHE. cannot be written.*"),
        (dict(PATH="", CXX=""), None),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_the_reason_why_kernels_are_not_used_is_logged_once(monkeypatch, caplog, tmp_path, environment, line):
    """Unless there is simply no compiler. No other test uses these widths, so no kernels are loaded yet."""
    monkeypatch.setattr(build, "_warned", False)
    for name, value in ({"RMT_CACHE": str(tmp_path)} | environment).items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.WARNING):
        for width in (1017, 1018):
            assert build.unavailable_reason.__wrapped__("planes.cpp", torch.float32, f"HEAD_DIM={width}")
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == (line is not None)
    assert all(
        re.fullmatch(rf"the C\+\+ kernels are unavailable, falling back to PyTorch operators: {line}", text)
        for text in said
    ), said
