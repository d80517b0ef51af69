"""Streamed shards: the same images as mapped ones, limited space on disk, and an order by shards."""

import functools
import http.server
import json
import pickle
import shutil
import threading
from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from helpers.image_sets import ANT_OR_BEE, encode, picture, row, write_tar

from rmt.data.image_loader import ImageLoader
from rmt.data.order import EpochPlan, ShardOrder
from rmt.data.sets import hold_out
from rmt.data.sources.remote import list_folder
from rmt.data.sources.shards import ShardSet, shard_order
from rmt.data.splits import open_evaluation_split, open_splits, resolve_stream
from rmt.data.transforms import eval_transform
from rmt.errors import RMTError

SIZES = (5, 3, 4, 6)
TRANSFORM = eval_transform(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear", crop_pct=1.0, pad_to=0)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RMT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("rmt.data.sources.remote._PAUSE", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def shards(tmp_path) -> list[Path]:
    """Four shards of 18 rows in all, images numbered through, labels alternating; and two rows to validate on."""
    folder, paths, start = tmp_path / "shards", [], 0
    folder.mkdir()
    for number, size in enumerate(SIZES):
        paths.append(folder / f"train-{number:05d}-of-00004.parquet")
        _write(paths[-1], range(start, start + size))
        start += size
    _write(folder / "val-00000-of-00001.parquet", range(2))
    return paths


def _write(path, numbers):
    rows = {"image": [row(i) for i in numbers], "label": [i % 2 for i in numbers]}
    pq.write_table(datasets.Dataset.from_dict(rows, features=ANT_OR_BEE).data.table, path, row_group_size=2)


def streamed(shards, **options) -> ShardSet:
    return ShardSet(shards, **{"buffer": 8, **options})


def cached(cache) -> list[str]:
    return sorted(file.name for file in cache.rglob("*.arrow"))


def assert_same_images(found, expected):
    assert (found.classes, found.labels.tolist()) == (expected.classes, expected.labels.tolist())
    for i in reversed(range(len(expected))):
        np.testing.assert_array_equal(np.asarray(found.load(i)), np.asarray(expected.load(i)))


def test_the_images_are_those_of_the_mapped_shards(shards):
    found = streamed(shards)
    assert_same_images(found, ShardSet(shards))
    assert_same_images(pickle.loads(pickle.dumps(found)), ShardSet(shards))
    assert found.name(5) == f"{shards[1]}[0]"


def test_labels_are_read_without_the_images_and_kept(shards, cache):
    streamed(shards)
    assert cached(cache) == []
    for shard in shards:
        shutil.copy(shard, shard.with_suffix(".kept"))
    assert len(list(cache.rglob("*.labels"))) == 4
    again = streamed(shards)
    assert again.labels.tolist() == [i % 2 for i in range(18)]


def test_only_so_many_shards_are_kept_as_there_is_room_for(shards, cache):
    largest = max(shard.stat().st_size for shard in shards)
    found = streamed(shards, room=largest)
    first = np.asarray(found.load(0))
    for i in range(18):
        found.load(i)
        assert len(cached(cache)) <= 2  # of four
    assert "000000.arrow" not in cached(cache)  # unused longest
    np.testing.assert_array_equal(np.asarray(found.load(0)), first)  # still mapped
    np.testing.assert_array_equal(np.asarray(pickle.loads(pickle.dumps(found)).load(0)), first)  # fetched again


def test_the_order_is_a_permutation_that_stays_within_a_few_shards():
    ends = np.cumsum([10] * 20)
    order = ShardOrder(ends, buffer=30)
    first, second = order.order(0, 0), order.order(0, 1)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(200))
    assert (first != second).any()
    for start in range(0, 200, 30):
        window = np.searchsorted(ends, first[start : start + 30], side="right")
        assert len(np.unique(window)) <= 3
        assert (np.diff(window) != 0).any()  # mixed, not one shard after another
    assert not np.array_equal(np.sort(np.searchsorted(ends, first[:30], side="right")), np.repeat([0, 1, 2], 10))


@pytest.mark.parametrize("repeats", [1, 3])
def test_processes_take_parts_of_their_own(repeats):
    ends = np.cumsum([64] * 16)
    options = dict(samples=1024, batch_size=8, shuffle=True, shard_order=ShardOrder(ends, buffer=64), repeats=repeats)
    seen = []
    for rank in range(4):
        plan = EpochPlan(**options, rank=rank, world_size=4, drop_last=True)
        order = plan.order(3)
        mine = np.concatenate([order[plan.batch(step)] for step in range(plan.steps)])
        assert len(mine) == 256
        assert len(np.unique(np.searchsorted(ends, mine, side="right"))) <= 16 // 4 // repeats + 2
        seen += mine.tolist()
    counts = np.bincount(seen, minlength=1024)
    assert counts.max() == repeats
    assert (counts > 0).sum() == -(-1024 // repeats)


def test_a_stopped_epoch_goes_on_with_the_next_batch(shards):
    def loader():
        return ImageLoader(streamed(shards), TRANSFORM, batch_size=3, shuffle=True, drop_last=True, seed=1, workers=0)

    whole = [batch["index"].tolist() for batch in loader()]
    first = loader()
    batches = iter(first)
    begun = [next(batches)["index"].tolist() for _ in range(2)]
    later = loader()
    later.load_state_dict(first.state_dict())
    assert begun + [batch["index"].tolist() for batch in later] == whole
    assert sorted(index for batch in whole for index in batch) == list(range(18))


def test_workers_read_the_same(shards):
    def images(workers):
        one = ImageLoader(streamed(shards), TRANSFORM, batch_size=4, shuffle=False, workers=workers)
        found = torch.cat([batch["image"] for batch in one])
        one.close()
        return found

    assert torch.equal(images(0), images(2))


def test_a_held_out_part_keeps_the_order_by_shards(shards):
    rest, held = hold_out(streamed(shards), 4, seed=0)
    order = shard_order(rest)
    assert order.ends[-1] == len(rest) == 14
    assert sorted(order.order(0, 0).tolist()) == list(range(14))
    assert shard_order(ShardSet(shards)) is None
    assert len(held) == 4


def test_tars_are_streamed_too(tmp_path):
    for number, keys in enumerate((range(5), range(5, 9))):
        samples = {f"{i:04d}": {"png": encode(picture(i), "PNG"), "cls": str(i % 3).encode()} for i in keys}
        write_tar(tmp_path / f"train-{number:04d}.tar", samples)
    (tmp_path / "classes.txt").write_text("ant\nbee\ncat\n")
    found = ShardSet(sorted(tmp_path.glob("*.tar")), buffer=4)
    assert found.classes == ("ant", "bee", "cat")
    assert found.labels.tolist() == [i % 3 for i in range(9)]
    np.testing.assert_array_equal(np.asarray(found.load(7)), np.asarray(picture(7)))


@pytest.mark.parametrize("cut", [0.2, 0.9])
def test_a_shard_that_was_cut_off_is_named(shards, cut):
    shards[2].write_bytes(shards[2].read_bytes()[: int(shards[2].stat().st_size * cut)])
    with pytest.raises(RMTError, match=r"train-00002-of-00004\.parquet: not a whole parquet file") as error:
        streamed(shards)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_the_disk_is_streamed(shards, monkeypatch):
    folder = str(shards[0].parent)
    assert resolve_stream(folder, "auto") == "no"
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr("rmt.data.sources.cache.shutil.disk_usage", lambda path: usage._replace(free=1000))
    assert resolve_stream(folder, "auto") == "yes"
    assert resolve_stream(folder, "no") == "no"
    assert open_splits(folder).train.order is not None
    with pytest.raises(RMTError, match="--stream must be auto, yes or no"):
        resolve_stream(folder, "perhaps")


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class NoListing(Quiet):
    def list_directory(self, path):
        self.send_error(403)


@pytest.fixture
def serve():
    servers = []

    def start(folder, handler=Quiet) -> str:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("choice", ["yes", "no"])
def test_shards_at_an_http_address(shards, serve, choice):
    address = serve(shards[0].parent)
    expected = ShardSet(shards)
    found = open_splits(address, stream=choice).train
    assert (found.order is not None) == (choice == "yes")
    assert_same_images(found, expected)
    assert len(open_evaluation_split(address).images) == 2


def test_an_index_stands_in_for_a_listing(shards, serve):
    folder = shards[0].parent
    address = serve(folder, NoListing)
    with pytest.raises(RMTError, match=r"no index\.json there and no listing"):
        list_folder(address)
    sizes = {file.name: file.stat().st_size for file in folder.glob("*.parquet")}
    (folder / "index.json").write_text(json.dumps(sizes))
    assert [(file.name, file.size) for file in list_folder(address)] == sorted(sizes.items())
    (folder / "index.json").write_text("[]")
    with pytest.raises(RMTError, match="not an index"):
        list_folder(address)


@pytest.fixture
def bucket(shards):
    """The shards in a store of fsspec's, which stands for s3."""
    store = fsspec.filesystem("memory")
    for file in shards[0].parent.glob("*.parquet"):
        store.pipe(f"/bucket/{file.name}", file.read_bytes())
    yield "memory://bucket"
    store.rm("/bucket", recursive=True)


def test_shards_in_a_store(shards, bucket, cache):
    found = open_splits(bucket, stream="yes", buffer=8).train
    assert cached(cache) == []  # labels and classes came without the images
    assert_same_images(found, ShardSet(shards))


def test_a_shard_that_comes_cut_is_named(shards, bucket):
    found = open_splits(bucket, stream="yes", buffer=8).train
    fsspec.filesystem("memory").pipe("/bucket/train-00001-of-00004.parquet", shards[1].read_bytes()[:100])
    with pytest.raises(RMTError, match=r"train-00001-of-00004\.parquet: .*received 100 of [\d,]+ bytes"):
        found.load(6)


def test_addresses_that_cannot_be_read_are_one_line(serve, tmp_path):
    (tmp_path / "empty").mkdir()
    address = serve(tmp_path / "empty")
    for data, line in (
        ("s3://bucket/images", "pip install s3fs"),
        ("nonsense://x/y", "addresses of this kind cannot be read"),
        (address, "no parquet shards and no tars there"),
        (f"{address}/nowhere", "no index.json there"),
    ):
        with pytest.raises(RMTError, match=line) as error:
            open_splits(data)
        assert "\n" not in str(error.value)
