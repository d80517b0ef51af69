"""Pipes, devices, links to themselves and files of a terabyte where data are expected: one line, at once."""

import io
import os
import signal
import sys
from pathlib import Path

import pytest
from helpers.image_sets import picture, without_privileges
from PIL import Image

from rmt.check.opened import Where, guess_task
from rmt.data.detection.coco import read_coco
from rmt.data.detection.labelme import _load
from rmt.data.detection.layouts import detection_layout
from rmt.data.detection.xml_file import BadXml, read_xml
from rmt.data.files import MAX_TABLE, MAX_TEXT, files_below, open_text, read_lines, read_text, subfolder
from rmt.data.fingerprint import _read_classes
from rmt.data.images import BadImage, read_orientation, read_size
from rmt.data.segmentation.layouts import segmentation_layout
from rmt.data.segmentation.masks import ClassList
from rmt.data.sources.collection import entries_of
from rmt.data.sources.folders import FolderSet
from rmt.data.splits import present_splits
from rmt.data.token_labels.label_maps import INDEX, LabelMapSpec, images_without_map, read_map_file
from rmt.errors import RMTError
from rmt.model import read_metadata
from rmt.training.checkpoints.io import read_state
from rmt.training.logging.history import _read_whole_rows
from rmt.training.run_folder import RunFolder, read_json

TERABYTE = 2**40


@pytest.fixture(autouse=True)
def not_for_ever():
    """Opening a pipe that nobody writes to waits for ever."""
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits, or reads everything"))
    signal.alarm(20)
    yield
    signal.alarm(0)


READERS = {
    "coco": (lambda path: read_coco(path, path.parent), RMTError),
    "xml": (read_xml, BadXml),
    "lines": (read_lines, OSError),
    "text": (read_text, OSError),
    "csv": (open_text, OSError),
    "classes": (ClassList.read, RMTError),
    "record": (_read_classes, RMTError),
    "size": (read_size, BadImage),
    "state": (read_state, RMTError),
    "metrics": (lambda path: _read_whole_rows(path, ("epoch",)), RMTError),
    "json": (read_json, (OSError, ValueError)),
    "exported": (read_metadata, RMTError),
}


@pytest.mark.parametrize("what", ["pipe", "device", "terabyte", "folder"])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused_at_once(tmp_path, reader, what):
    read, expected = READERS[reader]
    path = make(tmp_path / f"file{'.onnx' if reader == 'exported' else '.png'}", what)
    with pytest.raises(expected) as error:
        read(path)
    assert "\n" not in str(error.value)


def make(path: Path, what: str) -> Path:
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "folder":
        path.mkdir()
    else:
        path.touch()
        os.truncate(path, TERABYTE)
    return path


def test_labelme_and_label_maps_say_it_in_their_own_way(tmp_path):
    assert _load(make(tmp_path / "a.json", "pipe")) == "not a regular file"
    make(tmp_path / INDEX, "pipe")
    with pytest.raises(RMTError, match="not a regular file"):
        LabelMapSpec.read(tmp_path)
    assert read_orientation(make(tmp_path / "a.png", "pipe")) == 1
    assert MAX_TEXT < MAX_TABLE < TERABYTE


def test_a_run_whose_recipe_is_no_object_is_named(tmp_path):
    for text in ("null", "[]", '"x"', "3"):
        (tmp_path / "recipe.json").write_text(text)
        with pytest.raises(RMTError, match=r"recipe\.json: a JSON object with the fields of a recipe is expected"):
            RunFolder.open(tmp_path).read_recipe()


def test_links_to_themselves_cost_only_themselves(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        picture(1).save(tmp_path / name / "1.png")
        (tmp_path / name / "self.png").symlink_to("self.png")
        (tmp_path / name / "up").symlink_to(tmp_path / name, target_is_directory=True)
    (tmp_path / "loop").symlink_to("loop")
    found = FolderSet(tmp_path)
    assert found.classes == ("a", "b") and len(found) == 4
    assert found.skipped == {"outside the class folders": 1}
    assert isinstance(found.load(0), Image.Image)
    with pytest.raises(BadImage, match="Too many levels of symbolic links"):
        found.load(1)
    assert subfolder(tmp_path, ("b",)) == tmp_path / "b"


def test_names_that_are_shown_alike_are_refused(tmp_path):
    """The escape of an undecodable byte may be the name of another folder."""
    for name in (b"caf\xe9", b"caf\\xe9"):
        (folder := os.fsencode(tmp_path) + b"/" + name) and os.mkdir(folder)
        picture(1).save(os.fsdecode(folder) + "/1.png")
    with pytest.raises(RMTError, match="shown by the same name"):
        FolderSet(tmp_path)


@pytest.mark.parametrize("place", ["a", "a/b"])
def test_a_folder_without_permission_is_not_left_out_unsaid(open_tmp_path, place):
    """Its files would be missing from data, predictions and calibration without a word."""
    for name in ("a/b", "c"):
        (open_tmp_path / name).mkdir(parents=True)
        picture(1).save(open_tmp_path / name / "0.png")
    assert files_below(open_tmp_path, (".png",)) == ["a/b/0.png", "c/0.png"]
    assert files_below(open_tmp_path / "none", (".png",)) == []
    (open_tmp_path / place).chmod(0)
    with without_privileges():
        for read in (lambda folder: files_below(folder, (".png",)), lambda folder: list(entries_of(str(folder)))):
            with pytest.raises(RMTError, match=f"{place}: no permission to read this folder"):
                read(open_tmp_path)
        for find in (detection_layout, segmentation_layout, present_splits, lambda data: guess_task(Where(data))):
            if place == "a":
                with pytest.raises(RMTError, match="a: no permission to read this folder"):
                    find(str(open_tmp_path / place))
    (open_tmp_path / place).chmod(0o755)


def test_label_maps_are_files(tmp_path):
    spec = LabelMapSpec(
        teacher="t", weights="w", image_size=(32, 32), mean=(0.5,), std=(0.5,), interpolation="bicubic",
        num_classes=2, grid=(1, 1), top_k=1, images=1, fingerprint="f", shard_images=1,
    )  # fmt: skip
    os.mkfifo(tmp_path / spec.file_name(0))
    for read in (lambda path: read_map_file(path, spec, 0), images_without_map):
        with pytest.raises(RMTError, match="it is no file"):
            read(tmp_path / spec.file_name(0))


def test_names_on_the_standard_input_have_a_bound(monkeypatch):
    endless = io.BytesIO(b"a.png\n" + b"\0" * 2**18)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(endless))
    names = entries_of("-")
    assert next(names) == "a.png"
    with pytest.raises(RMTError, match="^-: the standard input has a line of 65,536 bytes"):
        next(names)
    assert endless.tell() < 2**17
