"""`rmt shard`: what goes in comes out, bad images are named, and a stopped call goes on."""

import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.pictures import make_folder
from PIL import Image

from rmt.commands.cli import main
from rmt.data.images import read_image
from rmt.data.sources import packing as sharding
from rmt.data.sources.folders import FolderSet
from rmt.data.sources.packing import PLAN, check_shard, pack
from rmt.data.sources.remote import INDEX
from rmt.data.splits import open_splits
from rmt.errors import RMTError
from rmt.terminal import plural


@pytest.fixture(autouse=True)
def _cache_of_our_own(tmp_path, monkeypatch):
    monkeypatch.setenv("RMT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path):
    return make_folder(tmp_path / "photos", classes=3, train=7, val=2)


def rows(shard):
    return [(row["image"]["path"], row["image"]["bytes"], row["label"]) for row in pq.read_table(shard).to_pylist()]


def test_every_image_comes_back_as_it_was(photos, tmp_path):
    out = tmp_path / "shards"
    packed = pack(photos, out, shard_images=4, workers=2)
    assert (packed.images, packed.written, packed.bad) == (27, 8, {})
    sizes = {path.name: path.stat().st_size for path in out.glob("*.parquet")}
    assert json.loads((out / INDEX).read_text()) == sizes
    assert sorted(path.name for path in out.iterdir()) == [
        INDEX,
        PLAN,
        *(f"train-{i:05d}-of-00006.parquet" for i in range(6)),
        *(f"val-{i:05d}-of-00002.parquet" for i in range(2)),
    ]
    for split in ("train", "val"):
        found = {path: (data, label) for shard in out.glob(f"{split}-*") for path, data, label in rows(shard)}
        folder = FolderSet(photos / split)
        assert len(found) == len(folder)
        for i in range(len(folder)):
            path = folder.path(i)
            assert found[str(path.relative_to(folder.root))] == (path.read_bytes(), int(folder.labels[i]))
        opened = getattr(open_splits(str(out)), split)
        assert opened.classes == folder.classes
        assert np.bincount(opened.labels).tolist() == np.bincount(folder.labels).tolist()
        assert opened.load(0).size == (32, 32)


def test_large_images_are_made_smaller_and_others_kept(photos, tmp_path):
    large = Image.new("RGB", (90, 60), (200, 30, 100))
    large.paste((0, 0, 0), (0, 0, 45, 60))
    large.save(photos / "train" / "large.png")
    (photos / "train" / "large.png").rename(next((photos / "train").iterdir()) / "large.png")
    pack(photos, tmp_path / "shards", short_side=40, quality=80, workers=1)
    found = {path: data for shard in (tmp_path / "shards").glob("train*") for path, data, _ in rows(shard)}
    for path, data in found.items():
        if not path.endswith("large.png"):
            assert data == (photos / "train" / path).read_bytes()
            continue
        made = read_image(data)
        assert Image.open(io.BytesIO(data)).format == "JPEG" and made.size == (60, 40)
        expected = large.resize((60, 40), Image.Resampling.BICUBIC)
        assert np.abs(np.asarray(made).astype(int) - np.asarray(expected)).mean() < 4
    assert len(found) == 22
    with pytest.raises(RMTError, match=r"shards made otherwise \(another quality\)"):
        pack(photos, tmp_path / "shards", short_side=40)
    with pytest.raises(RMTError, match="shards made otherwise"):
        pack(photos, tmp_path / "shards")


def test_order_by_seed_or_as_in_the_folder(photos, tmp_path):
    orders = {}
    for name, options in dict(a={}, b={}, c=dict(seed=1), plain=dict(shuffle=False)).items():
        pack(photos, tmp_path / name, workers=1, **options)
        orders[name] = [row[0] for row in rows(tmp_path / name / "train-00000-of-00001.parquet")]
    folder = FolderSet(photos / "train")
    names = [str(folder.path(i).relative_to(folder.root)) for i in range(len(folder))]
    assert orders["plain"] == names
    assert orders["a"] == orders["b"] != names and sorted(orders["a"]) == sorted(names)
    assert orders["c"] != orders["a"] and sorted(orders["c"]) == sorted(names)


def test_the_same_bytes_however_many_processes(photos, tmp_path):
    for workers in (1, 2):
        pack(photos, tmp_path / str(workers), shard_images=5, workers=workers)
    for shard in (tmp_path / "1").iterdir():
        assert (tmp_path / "2" / shard.name).read_bytes() == shard.read_bytes()


def test_a_bad_image_is_left_out_and_named_also_the_second_time(photos, tmp_path, capsys):
    bad = photos / "train" / "red" / "0.png"
    bad.write_bytes(bad.read_bytes()[:60])
    for written in (1 + 1, 0):
        assert main(["shard", str(photos), str(tmp_path / "shards"), "--workers", "1"]) == 0
        said = capsys.readouterr().out
        assert f"26 images, 0.1 MB, {plural(written, 'shard')} written now" in said and f"skipped: {bad} (" in said


def test_only_what_is_missing_or_damaged_is_written_again(photos, tmp_path):
    out = tmp_path / "shards"
    pack(photos, out, shard_images=4, workers=1)
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    shards = sorted(out.glob("*.parquet"))
    shards[0].unlink()
    shards[1].write_bytes(whole[shards[1].name][:-100])
    content = bytearray(whole[shards[2].name])
    place = content.index(b"IDAT") + 20  # a pixel
    content[place] ^= 1
    shards[2].write_bytes(content)
    assert check_shard(shards[1]) is None and check_shard(shards[2]) is None
    assert pack(photos, out, shard_images=4, workers=1).written == 3
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_a_disk_that_alters_bytes_is_noticed(photos, tmp_path, monkeypatch):
    def write(table, path, **options):
        real(table.slice(1), path, **options)

    real = sharding.pq.write_table
    monkeypatch.setattr(sharding.pq, "write_table", write)
    with pytest.raises(RMTError, match="what was read back is not what was written"):
        pack(photos, tmp_path / "shards", workers=1)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == [PLAN]


def test_mistakes_are_one_line(photos, tmp_path):
    out = tmp_path / "shards"
    pack(photos, out, workers=1)
    with pytest.raises(RMTError, match="shards made otherwise .another seed"):
        pack(photos, out, workers=1, seed=1)
    (photos / "train" / "red" / "new.png").write_bytes((photos / "train" / "red" / "1.png").read_bytes())
    with pytest.raises(RMTError, match="shards made otherwise .another sources"):
        pack(photos, out, workers=1)
    (out / PLAN).unlink()
    with pytest.raises(RMTError, match=f"but no {PLAN}"):
        pack(photos, out, workers=1)
    with pytest.raises(RMTError, match="no such folder"):
        pack(tmp_path / "none", tmp_path / "other", workers=1)
    (photos / "val" / "blue").rename(photos / "val" / "teal")
    with pytest.raises(RMTError, match="different classes"):
        pack(photos, tmp_path / "other", workers=1)


def test_the_metadata_is_what_datasets_reads(photos, tmp_path):
    pack(photos, tmp_path / "shards", workers=1)
    metadata = pq.read_schema(tmp_path / "shards" / "val-00000-of-00001.parquet").metadata
    features = json.loads(metadata[b"huggingface"])["info"]["features"]
    assert features["label"]["names"] == ["blue", "green", "red"] and features["image"]["_type"] == "Image"
