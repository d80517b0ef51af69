"""Parquet shards: the same images as the files, whatever the layout, and one line for each mistake."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.image_sets import ANT_OR_BEE, picture, row, without_privileges

from rmt.data.images import BadImage
from rmt.data.sources import cache
from rmt.data.sources.shards import ShardSet, check_complete
from rmt.errors import RMTError


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., list[Path]]:
    """write(5, 3) → two shards of 5 and 3 rows, images numbered through, labels alternating."""

    def make(
        *sizes: int, features: datasets.Features | None = ANT_OR_BEE, folder: str = "shards", **columns
    ) -> list[Path]:
        shards, start = [], 0
        for number, size in enumerate(sizes):
            path = tmp_path / folder / f"train-{number:05d}-of-{len(sizes):05d}.parquet"
            path.parent.mkdir(exist_ok=True, parents=True)
            rows = {"image": [row(start + i) for i in range(size)], "label": [(start + i) % 2 for i in range(size)]}
            rows |= {name: values[start : start + size] for name, values in columns.items()}
            if features is None:
                table = pa.table(rows)
            else:
                table = datasets.Dataset.from_dict(rows, features=features).data.table
            pq.write_table(table, path, row_group_size=2)
            shards.append(path)
            start += size
        return shards

    return make


def test_rows_come_in_order_over_shards_and_row_groups(write: Callable[..., list[Path]]):
    shards = write(5, 3)
    found = ShardSet(shards)
    assert len(found) == 8
    assert found.classes == ("ant", "bee")
    assert found.labels.tolist() == [0, 1] * 4
    assert found.labels.dtype == np.int64
    for i in range(8):
        np.testing.assert_array_equal(np.asarray(found.load(i)), np.asarray(picture(i)))
    assert found.name(4) == f"{shards[0]}[4]"
    assert found.name(5) == f"{shards[1]}[0]"


def test_travels_to_another_process_by_file_name(write: Callable[..., list[Path]]):
    found = ShardSet(write(200))
    travelling = pickle.dumps(found)
    assert len(travelling) < 60_000  # the images have 90,000
    np.testing.assert_array_equal(np.asarray(pickle.loads(travelling).load(7)), np.asarray(picture(7)))


def test_without_the_metadata_of_datasets_classes_are_numbers(write: Callable[..., list[Path]]):
    found = ShardSet(write(4, features=None))
    assert found.classes == ("0", "1")
    np.testing.assert_array_equal(np.asarray(found.load(3)), np.asarray(picture(3)))


def test_images_may_be_plain_bytes(write: Callable[..., list[Path]]):
    plain = ShardSet(write(4, features=None, image=[row(i)["bytes"] for i in range(4)]))
    np.testing.assert_array_equal(np.asarray(plain.load(3)), np.asarray(picture(3)))


def test_shards_are_converted_once_whether_mapped_or_streamed(write, monkeypatch: pytest.MonkeyPatch):
    shards, converted = write(5, 3, folder="once"), []
    real = cache.convert
    monkeypatch.setattr(cache, "convert", lambda shard, *args: converted.append(shard) or real(shard, *args))
    streamed = ShardSet(shards, buffer=4)
    streamed.load(0)
    assert converted == shards[:1]
    ShardSet(shards)
    assert converted == shards
    monkeypatch.setattr(cache, "read_labels", None)
    assert ShardSet(shards).labels.tolist() == ShardSet(shards, buffer=4).labels.tolist() == [0, 1] * 4
    assert converted == shards


def test_a_full_disk_and_a_locked_shard_get_one_line(write, open_tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(self, batch):
        raise OSError(28, "No space left on device")

    shards = write(4, folder="full")
    with monkeypatch.context() as patch:
        patch.setattr(pa.ipc.RecordBatchFileWriter, "write_batch", full)
        for buffer in (None, 4):
            with pytest.raises(RMTError, match=r"the disk is full: .*, or set RMT_CACHE to a folder elsewhere$"):
                ShardSet(shards, buffer=buffer).load(0)
    assert len(ShardSet(shards)) == 4
    locked = open_tmp_path / "locked.parquet"
    locked.write_bytes(shards[0].read_bytes())
    locked.chmod(0)
    folder = open_tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    monkeypatch.setenv("RMT_CACHE", str(folder))
    with without_privileges(), pytest.raises(RMTError, match=r"locked\.parquet: no permission to read it"):
        ShardSet([locked])


def test_changed_shards_are_read_afresh(write: Callable[..., list[Path]]):
    shards = write(4)
    assert len(ShardSet(shards)) == 4
    before = shards[0].stat()
    write(6)
    os.utime(shards[0], ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000_000))
    assert len(ShardSet(shards)) == 6


def test_names_that_look_like_patterns_or_are_hidden(write: Callable[..., list[Path]]):
    assert len(ShardSet(write(3, folder="a[1]*b? c/.hidden/__pycache__"))) == 3


def test_a_bad_row_is_a_bad_image(write: Callable[..., list[Path]]):
    rows = [row(0), {"bytes": b"rubbish", "path": None}, {"bytes": None, "path": "x.png"}, None]
    found = ShardSet(write(4, image=rows))
    found.load(0)
    for i, reason in ((1, "not an image"), (2, "holds no image bytes"), (3, "holds no image bytes")):
        with pytest.raises(BadImage, match=reason) as caught:
            found.load(i)
        assert caught.value.name == found.name(i)


def test_missing_shards_are_named(write: Callable[..., list[Path]]):
    shards = write(2, 2, 2, 2)
    check_complete(shards)
    with pytest.raises(RMTError, match=r"1 of 4 shards missing: train-00002-of-00004.parquet"):
        check_complete([shards[0], shards[1], shards[3]])


def test_mistakes_get_one_line(write: Callable[..., list[Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture):
    whole = write(300, folder="whole")[0]
    data = whole.read_bytes()

    def broken(name: str, content: bytes) -> list[Path]:
        (tmp_path / f"{name}.parquet").write_bytes(content)
        return [tmp_path / f"{name}.parquet"]

    three = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee", "cat"])})
    plain = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})
    text = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    no_label = ANT_OR_BEE.copy()
    del no_label["label"]
    cases = {
        "not a whole parquet file": broken("cut", data[: len(data) // 2]),
        "not a whole parquet file ": broken("empty", b""),
        "not a whole parquet file  ": broken("holed", data[:4] + b"\xff" * 40_000 + data[40_004:]),
        "no such file": [tmp_path / "gone.parquet"],
        "no image of class cat": write(4, features=three, folder="three"),
        "this split carries no labels": write(2, features=plain, folder="minus", label=[-1, -1]),
        "only one class": write(2, features=plain, folder="one", label=[0, 0]),
        "must hold integers": write(2, features=text, folder="text", label=["a", "b"]),
        "1 row with no label": write(2, folder="none", label=[None, 1]),
        "no rows": write(0, folder="no rows"),
    }
    for line, shards in cases.items():
        with pytest.raises(RMTError) as caught:
            ShardSet(shards)
        assert line.strip() in str(caught.value)
        assert str(shards[0].parent) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert caplog.records == []  # nor does `datasets` say it once more

    pq.write_table(pa.table({"img": [1], "label": [0]}), tmp_path / "columns.parquet")
    with pytest.raises(RMTError, match="no column image; it has img, label"):
        ShardSet([tmp_path / "columns.parquet"])


ALONE = """
import os, sys
def watch(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib")):
        print("network:", event, args, flush=True)
    if event == "open" and isinstance(args[0], str) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        if not args[0].startswith((os.environ["RMT_CACHE"], os.environ["TMPDIR"], "/dev/", "/proc/")):
            print("write:", *args, flush=True)
sys.addaudithook(watch)
from rmt.data.images import read_image
from rmt.data.splits import open_evaluation_split
sample = open_evaluation_split("sample").images
print(len(sample), sample.load(5).size)
"""


def test_reading_needs_no_network_and_writes_to_the_cache_alone(tmp_path: Path):
    home, temporary = tmp_path / "home", tmp_path / "temporary"  # Python itself tries the temporary folder out
    home.mkdir()
    temporary.mkdir()
    env = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "XDG_"))}
    env |= {
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "RMT_CACHE": str(tmp_path / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([sys.executable, "-c", ALONE], env=env, capture_output=True, text=True, timeout=100)
    assert (done.stdout, done.stderr, done.returncode) == ("2000 (28, 28)\n", "", 0)
    assert [*home.iterdir(), *temporary.iterdir()] == []


def test_a_changed_byte_of_the_footer_is_one_line_or_nothing(tmp_path: Path):
    """An unknown compression once ended the process: pyarrow names it in C++ without catching what that throws."""
    rows = {"image": pa.array([b"x" * 400], pa.binary()), "label": [0]}
    pq.write_table(pa.table(rows), tmp_path / "whole.parquet", store_schema=False, compression="none")
    whole = (tmp_path / "whole.parquet").read_bytes()
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    messages = []
    for place in range(footer, len(whole) - 8):
        shard = tmp_path / f"{place}.parquet"
        shard.write_bytes(whole[:place] + bytes([52]) + whole[place + 1 :])  # 26 as an integer of thrift
        try:
            ShardSet([shard])
        except RMTError as error:
            messages.append(str(error))
    assert any("ompression" in message or "codec" in message for message in messages)
    assert all("\n" not in message for message in messages)
