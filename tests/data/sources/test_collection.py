"""What words on the command line name: files, folders, patterns, shards, addresses and names on the standard input."""

import io
import os
import pickle
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rmt.data.images import BadImage
from rmt.data.sources.collection import open_collection
from rmt.data.sources.shards import ShardSet
from rmt.errors import RMTError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def values(words) -> list[int]:
    found = open_collection(words)
    return [found.load(i).getpixel((0, 0))[0] for i in range(len(found))]


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """Images 0 to 3 in a folder and one below it; 10 to 12 in a parquet shard without labels; 20 and 21 in a tar."""
    monkeypatch.setenv("RMT_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "root"
    (root / "a" / "deep").mkdir(parents=True)
    for number, name in enumerate(["a/0.png", "a/1.png", "a/2.JPG", "a/deep/3.png"]):
        (root / name).write_bytes(png(number))
    (root / "a" / "notes.txt").write_text("none")
    (root / "rows").mkdir()
    pq.write_table(pa.table({"image": [png(10 + i) for i in range(3)]}), root / "rows" / "x.parquet")
    with tarfile.open(root / "rows" / "y.tar", "w") as tar:
        for name, data in (("k/0.png", png(20)), ("k/0.json", b"{}"), ("k/1.png", png(21)), ("k/1.cls", b"1")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return root


def test_words(root):
    a, rows = str(root / "a"), str(root / "rows")
    assert values([a]) == [0, 1, 2, 3]
    assert values([Path(a, "1.png"), Path(a, "0.png")]) == [1, 0]
    assert values([f"{a}/*.png"]) == [0, 1]
    assert values([f"{a}/**/*"]) == [0, 1, 2, 3]
    assert values([f"{rows}/x.parquet"]) == [10, 11, 12]
    assert values([f"{rows}/y.tar"]) == [20, 21]
    mixed = [f"{a}/0.png", f"{rows}/x.parquet", f"{a}/1.png", f"{a}/2.JPG", f"{rows}/y.tar", f"{a}/deep/3.png"]
    assert values(mixed) == [0, 10, 11, 12, 1, 2, 20, 21, 3]


def test_names(root):
    found = open_collection([root / "a" / "0.png", root / "rows"])
    assert [found.name(i).removeprefix(f"{root}/") for i in range(len(found))] == [
        "a/0.png",
        *(f"rows/x.parquet[{i}]" for i in range(3)),
        "rows/y.tar[k/0]",
        "rows/y.tar[k/1]",
    ]
    assert [found.stem(i) for i in range(len(found))] == ["0", "x-0", "x-1", "x-2", "y-k-0", "y-k-1"]
    found.prefetch(np.arange(len(found)))
    copy = pickle.loads(pickle.dumps(found))
    assert copy.name(2) == found.name(2) and copy.load(2).getpixel((0, 0)) == (11, 0, 0)


def test_addresses(root):
    a, rows = f"file://{root}/a", f"file://{root}/rows"
    assert values([a]) == [0, 1, 2, 3]
    assert values([f"{a}/1.png"]) == [1]
    assert values([f"{a}/*.png"]) == [0, 1]
    assert values([rows]) == [10, 11, 12, 20, 21]
    assert values([f"{rows}/x.parquet"]) == [10, 11, 12]
    found = open_collection([f"{a}/4.png"])
    with pytest.raises(BadImage, match=r"a/4\.png: no such file at this address"):
        found.load(0)
    with pytest.raises(RMTError, match=r"none\.parquet: no such file"):
        open_collection([f"{rows}/none.parquet"])


def test_names_on_the_standard_input(root, monkeypatch):
    lines = f"{root}/a/1.png\n\n{root}/rows/x.parquet\r\n{root}/a/0.png".encode()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(lines)))
    assert values(["-"]) == [1, 10, 11, 12, 0]


def test_mistakes_are_one_line(root):
    (root / "empty").mkdir()
    for word, line in (("empty", "empty: no images"), ("a/*.gif", r"\*.gif: no images"), ("rows/z-*", "no images")):
        with pytest.raises(RMTError, match=line):
            open_collection([root / word])
    with pytest.raises(RMTError, match="^no images: name image files"):
        open_collection([])
    found = open_collection([root / "nothing.png", root / "a" / "notes.txt"])
    for index, line in ((0, "no such file"), (1, "not an image")):
        with pytest.raises(BadImage, match=line):
            found.load(index)
    os.rename(root / "rows" / "x.parquet", root / "rows" / "x-00000-of-00002.parquet")
    with pytest.raises(RMTError, match="1 of 2 shards missing"):
        open_collection([root / "rows"])
    pq.write_table(pa.table({"img": [b""]}), root / "other.parquet")
    with pytest.raises(RMTError, match=r"other\.parquet: no column image; it has img"):
        open_collection([root / "other.parquet"])


def test_rows_without_labels_are_no_training_data(root):
    shard = root / "rows" / "x.parquet"
    with pytest.raises(RMTError, match="no column label; it has image"):
        ShardSet([shard])
    open_collection([shard]).load(0)
    with pytest.raises(RMTError, match="3 rows with no label"):  # the cache has it now
        ShardSet([shard])
