import os
import subprocess
import sys
from dataclasses import replace

import pytest

from rmt.errors import RMTError
from rmt.recipes import quickstart
from rmt.training.run_folder import RunFolder


def test_a_folder_is_named_after_recipe_and_time(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = RunFolder.create(quickstart()), RunFolder.create(replace(quickstart(), name="a/b: c"))
    assert first.path.parent.name == "runs"
    assert first.path.name.startswith("quickstart-20")
    assert second.path.name.startswith("a-b-c-20")
    assert first.read_recipe() == quickstart()


def test_the_home_folder_in_an_output_is_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunFolder.create(replace(quickstart(), output="~/a run")).path == tmp_path / "a run"


def test_two_runs_in_one_second_do_not_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len({RunFolder.create(quickstart()).path for _ in range(3)}) == 3


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RMTError, match=r"not empty .*thesis.tex.*--resume"):
        RunFolder.create(replace(quickstart(), output=str(tmp_path)))
    with pytest.raises(RMTError, match="is a file"):
        RunFolder.create(replace(quickstart(), output=str(tmp_path / "thesis.tex")))
    RunFolder.create(replace(quickstart(), output=str(tmp_path / "empty")))


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(RMTError, match=r"no recipe\.json"):
        RunFolder.open(tmp_path)
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(RMTError, match=r"cannot read .*recipe\.json"):
        RunFolder.open(tmp_path).read_recipe()


def test_a_recipe_larger_than_any_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.training.run_folder.MAX_JSON", 2**20)
    with (tmp_path / "recipe.json").open("wb") as file:
        file.truncate(2**40)  # takes no space on the disk
    with pytest.raises(RMTError, match=r"cannot read .*recipe\.json: it has more than 1 MB"):
        RunFolder(tmp_path).read_recipe()


def test_no_permission_is_one_line(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(RMTError, match="no permission") as caught:
        RunFolder.create(replace(quickstart(), output=str(tmp_path / "a" / "b")))
    assert "\n" not in str(caught.value)


def test_what_a_kill_inside_a_save_left_is_removed(tmp_path):
    folder = RunFolder.create(replace(quickstart(), output=str(tmp_path / "run")))
    for name in (".last.ckpt.writing-7", ".best.safetensors.x8f3", ".keep"):
        (folder.path / name).touch()
    folder.remove_temporary_files()
    assert sorted(file.name for file in folder.path.iterdir()) == [".keep", "recipe.json"]


LOCKS = """
import os, sys, time
from pathlib import Path
from rmt.training.run_folder import RunFolder

with RunFolder(Path(sys.argv[1])).lock():
    print("locked", flush=True)
    if os.fork() == 0:
        print("forked", flush=True)
        time.sleep(5)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of the system's")
def test_two_processes_do_not_train_in_one_folder(tmp_path):
    folder = RunFolder(tmp_path)
    with folder.lock(), folder.lock():  # again inside
        pass
    other = subprocess.Popen([sys.executable, "-c", LOCKS, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert [other.stdout.readline(), other.stdout.readline()] == ["locked\n", "forked\n"]
    with pytest.raises(RMTError, match=f"another process is training in {tmp_path}"), folder.lock():
        pass
    other.kill()  # its child lives on and does not hold the lock
    other.wait()
    with folder.lock():
        assert list(tmp_path.iterdir()) == []
