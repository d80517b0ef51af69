"""The folder that takes the pictures of `rmt predict`."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rmt.errors import RMTError
from rmt.inference.results import PredictionFolder, unique_names

RED = Image.new("RGB", (2, 2), "red")


@given(st.lists(st.sampled_from(["x", "X", "x-2", "x-2-2", "y"])))
def test_names_are_distinct_and_begin_as_they_did(names):
    found = unique_names(names)
    assert len({name.casefold() for name in found}) == len(found) == len(names)
    assert all(name.startswith(before) for name, before in zip(found, names, strict=True))
    assert unique_names(found) == found


def test_a_kind_is_named_where_there_are_several(tmp_path):
    folder = PredictionFolder(tmp_path / "out", ["a", "A"])
    assert not (tmp_path / "out").exists()  # until there is something to write
    assert folder.write(0, {"picture": RED}) == {"picture": str(tmp_path / "out" / "a.png")}
    assert folder.write(1, {"one": RED, "two": RED})["two"] == str(tmp_path / "out" / "A-2-two.png")
    folder.write_document({"images": []})
    assert json.loads((tmp_path / "out" / "predictions.json").read_text()) == {"images": []}
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_folder_in_use_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for path, line in (
        (tmp_path, "is not empty .it holds file.: choose another folder"),
        (tmp_path / "file", "a file"),
    ):
        with pytest.raises(RMTError, match=line):
            PredictionFolder(path, [])
