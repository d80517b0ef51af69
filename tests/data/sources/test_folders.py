"""Image folders: order, what is skipped, and the one line that each mistake gets."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sets import picture, without_privileges
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt.data.images import BadImage
from rmt.data.sources import folders
from rmt.data.sources.folders import FolderSet
from rmt.errors import RMTError

Make = Callable[..., Path]


def test_classes_and_files_come_sorted(make_folder: Make, monkeypatch: pytest.MonkeyPatch):
    in_disk_order = folders._entries
    in_no_order = lambda folder: sorted(in_disk_order(folder), key=lambda entry: entry.name, reverse=True)  # noqa: E731
    monkeypatch.setattr(folders, "_entries", in_no_order)
    root = make_folder({"zebra": 2, "Ant": 3, "bee/inner": 1, "bee/deeper/still": 1})
    found = FolderSet(root)
    assert found.classes == ("Ant", "bee", "zebra")
    assert found.labels.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert found.labels.dtype == np.int64
    names = [os.path.relpath(found.name(i), root) for i in range(len(found))]
    assert names[:4] == ["Ant/000.jpg", "Ant/001.jpg", "Ant/002.jpg", "bee/deeper/still/000.jpg"]
    assert names[4:] == ["bee/inner/000.jpg", "zebra/000.jpg", "zebra/001.jpg"]
    assert found.load(6).size == (12, 10)
    assert found.skipped == {}


def test_hidden_and_other_files_are_passed_over_and_counted(make_folder: Make):
    root = make_folder({"ant": 1, "bee": 1, ".git": 1, "bee/.thumbs": 3})
    picture(0).save(root / "bee" / "LOUD.JPEG")
    for name in ("ant/._000.jpg", "ant/.DS_Store", "bee/notes.txt", "bee/list.csv", "bee/noextension", "stray.jpg"):
        (root / name).write_bytes(b"x")
    found = FolderSet(root)
    assert found.classes == ("ant", "bee")
    assert len(found) == 3
    assert found.skipped == {"hidden": 4, "not an image": 3, "outside the class folders": 1}


def test_names_of_any_kind(make_folder: Make):
    root = make_folder({"ünïcode ✓": 1, "with space [and] *": 1}, root="ro ot[1]")
    os.rename(os.fsencode(root / "ünïcode ✓" / "000.jpg"), os.fsencode(root / "ünïcode ✓") + b"/\xff\xfe.jpg")
    found = FolderSet(root)
    assert [found.load(i).size for i in range(2)] == [(12, 10)] * 2


def test_links_are_followed_and_loops_end(make_folder: Make):
    root = make_folder({"ant": 1, "bee": 1}, root="real")
    (root / "cat").symlink_to(root / "bee")
    (root / "bee" / "loop").symlink_to(root / "bee")
    found = FolderSet(root)
    assert found.classes == ("ant", "bee", "cat")
    assert found.labels.tolist() == [0, 1, 2]


def test_relative_path_with_a_trailing_slash(make_folder: Make, monkeypatch: pytest.MonkeyPatch):
    root = make_folder({"ant": 1, "bee": 1})
    monkeypatch.chdir(root)
    assert FolderSet(Path("./")).load(1).size == (12, 10)
    monkeypatch.chdir(root.parent)
    assert FolderSet(Path(root.name + "/")).load(1).size == (12, 10)


def test_a_file_that_vanishes_later_is_a_bad_image(make_folder: Make):
    found = FolderSet(make_folder({"ant": 1, "bee": 1}))
    Path(found.name(0)).unlink()
    with pytest.raises(BadImage, match="no such file"):
        found.load(0)


def test_mistakes_get_one_line_that_names_them(make_folder: Make, tmp_path: Path):
    root = make_folder({"ant": 1, "bee": 1, "cat": 0, "dog": 0})
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    (tmp_path / "file").touch()
    cases = {
        root: "no image in the class folder cat, dog",
        make_folder({"ant": 3}, root="one"): "only one class folder (ant)",
        tmp_path / "empty": "no class folder inside",
        tmp_path / "nowhere": "no such folder",
        tmp_path / "file": "a file, not a folder",
    }
    for folder, line in cases.items():
        with pytest.raises(RMTError) as caught:
            FolderSet(folder)
        assert line in str(caught.value)
        assert str(caught.value).startswith(str(folder))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("locked", [".", "bee"])
def test_no_permission(open_tmp_path: Path, locked: str):
    for name in ("ant", "bee"):
        (open_tmp_path / name).mkdir()
        picture(0).save(open_tmp_path / name / "a.png")
    (open_tmp_path / locked).chmod(0)
    with without_privileges(), pytest.raises(RMTError, match="no permission to read this folder") as caught:
        FolderSet(open_tmp_path)
    (open_tmp_path / locked).chmod(0o755)
    assert str(caught.value).startswith(str(open_tmp_path / locked))


_FILES = st.sampled_from(
    ["a.jpg", "b.PNG", ".c.jpg", "d.txt", "e", "sub/f.webp", ".sub/g.jpg", "sub/.h.png", "i.jpg.bak"]
)


@given(st.dictionaries(st.sampled_from(["x", "y", "z", ".w"]), st.sets(_FILES), max_size=4))
@settings(max_examples=60, deadline=None)
def test_any_tree_is_opened_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, tree: dict[str, set[str]]):
    root = tmp_path_factory.mktemp("tree")
    for folder, files in tree.items():
        (root / folder).mkdir()
        for file in files:
            (root / folder / file).parent.mkdir(exist_ok=True)
            (root / folder / file).touch()
    wanted = {
        folder: {file for file in files if file in ("a.jpg", "b.PNG", "sub/f.webp")}
        for folder, files in tree.items()
        if folder != ".w"
    }
    if len(wanted) >= 2 and all(wanted.values()):
        found = FolderSet(root)
        names = {str(Path(found.name(i)).relative_to(root)) for i in range(len(found))}
        assert names == {f"{folder}/{file}" for folder, files in wanted.items() for file in files}
    else:
        with pytest.raises(RMTError) as caught:
            FolderSet(root)
        assert "\n" not in str(caught.value)
