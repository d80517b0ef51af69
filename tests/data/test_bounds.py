"""One number, size or name in a file makes nothing without bound: it ends in one line, soon and in little memory."""

import contextlib
import io
import json
import tarfile
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.coco_sets import annotation, make_coco, open_coco
from helpers.image_sets import encode, picture
from PIL import Image

from rmt.data.detection.coco import read_coco
from rmt.data.detection.layouts import detection_layout, open_detection
from rmt.data.segmentation.masks import ClassList
from rmt.data.sources import remote
from rmt.data.sources.remote import list_folder
from rmt.data.sources.shards import ShardSet, check_complete
from rmt.data.splits import open_splits
from rmt.data.token_labels.label_maps import INDEX, LabelMapSpec
from rmt.errors import RMTError


@pytest.fixture(autouse=True)
def soon():
    began = time.process_time()
    yield
    assert time.process_time() - began < 5


def refused(action, message):
    with pytest.raises(RMTError, match=message) as error:
        action()
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


def shard(path, labels, kind=None):
    images = [encode(picture(i), "PNG") for i in range(len(labels))]
    table = pa.table({"image": pa.array(images, pa.binary()), "label": pa.array(labels, kind)})
    pq.write_table(table, path)
    return path


@pytest.mark.parametrize("buffer", [None, 10], ids=["copied", "streamed"])
@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([0, 10**9], pa.int64(), "label 1000000000 in 2 rows"),
        ([0, 2**63 - 1], pa.int64(), "label 9223372036854775807 in 2 rows"),
        ([0, 2**64 - 1], pa.uint64(), "a label beyond 64 bits"),
        ([0, -(2**63)], pa.int64(), "no labels"),
        (["cat", "dog"], pa.string(), "label must hold integers, not string"),
        ([0.5, 1.5], pa.float64(), "label must hold integers"),
        ([None, 1], pa.int64(), "no label"),
        ([[0], [1]], pa.list_(pa.int64()), "label must hold integers"),
    ],
    ids=str,
)
def test_labels_of_shards(tmp_path, buffer, labels, kind, message):
    refused(lambda: ShardSet([shard(tmp_path / "train.parquet", labels, kind)], buffer=buffer), message)


@pytest.mark.parametrize("total", ["1000000000", "99999999999999999999999999"])
def test_the_number_of_shards_in_a_file_name(tmp_path, total):
    path = shard(tmp_path / f"train-00000-of-{total}.parquet", [0, 1])
    if len(total) < 19:
        refused(lambda: check_complete([path]), r"999,999,999 of 1,000,000,000 shards missing: train-00001-of-")
    else:  # no number of shards that anybody has
        check_complete([path])


def test_a_missing_shard_is_named_and_numbers_beyond_the_total_do_not_count(tmp_path):
    paths = [tmp_path / f"train-{i:05d}-of-00003.parquet" for i in (0, 2, 7)]
    refused(lambda: check_complete(paths), "1 of 3 shards missing: train-00001-of-00003.parquet$")


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_parquet_file_that_expands(tmp_path, monkeypatch, compression):
    """By a dictionary, whose one value is in every row, or by compression."""
    monkeypatch.setattr("rmt.data.sources.conversion._EXPANSION_FREE", 2**20)
    value, rows = (np.random.default_rng(0).bytes(100_000), 100) if compression == "none" else (bytes(3_000_000), 4)
    labels = [i % 2 for i in range(rows)]
    table = pa.table({"image": pa.array([value] * rows, pa.binary()), "label": labels})
    pq.write_table(table, tmp_path / "train.parquet", compression=compression)
    assert (tmp_path / "train.parquet").stat().st_size < 200_000
    refused(lambda: ShardSet([tmp_path / "train.parquet"]), "more than 20 times its size")


def test_a_compressed_tar_that_expands(tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.data.sources.conversion._EXPANSION_FREE", 2**20)
    with tarfile.open(tmp_path / "train.tar", "w:gz") as tar:
        for number in range(4):
            for suffix, data in (("png", bytes(500_000)), ("cls", b"%d" % (number % 2))):
                member = tarfile.TarInfo(f"{number}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    refused(lambda: ShardSet([tmp_path / "train.tar"]), "more than 20 times its size")


@pytest.mark.parametrize("kind", ["cls", "png"])
def test_a_sparse_member_of_a_tar_claims_any_size(tmp_path, kind):
    with tarfile.open(tmp_path / "train.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for name, data in (("a.png", b"x"), ("a.cls", b"1")):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    content = bytearray((tmp_path / "train.tar").read_bytes())
    place = content.index(f"a.{kind}".encode())
    header = content[place : place + 512]
    header[156:157] = b"S"  # GNU's sparse member, whose real size is at 483
    header[483:495] = b"37777777777\0"[:12]
    header[386:410] = b"00000000000\0" + b"00000000001\0"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    content[place : place + 512] = header
    (tmp_path / "train.tar").write_bytes(content)
    refused(lambda: ShardSet([tmp_path / "train.tar"]), r"4,294,967,295 bytes|whole tar")


@pytest.mark.parametrize("label", [b"9" * 30, b"9" * 5000, "²".encode(), "٣".encode(), b"1e3", b"--1", b""])
def test_the_class_of_a_sample(tmp_path, label):
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        for name, data in (("a.png", encode(picture(0), "PNG")), ("a.cls", label)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    refused(lambda: ShardSet([tmp_path / "train.tar"]), r"\.cls (must hold|has)")


INDEXES = [
    ("[]", "JSON object"),
    ("{", "JSON object"),
    ("[" * 100_000, "JSON object"),
    ('{"a.parquet": null}', "the size None"),
    ('{"a.parquet": "12"}', "the size 12"),
    ('{"a.parquet": true}', "the size True"),
    ('{"a.parquet": -1}', "the size -1"),
    ('{"a.parquet": 1e400}', "the size inf"),
    ('{"a.parquet": 1000000000000000000000000000}', "the size 1000"),
    ('{"../a.parquet": 1}', "not the name of a file"),
    ('{"/etc/passwd": 1}', "not the name of a file"),
    ('{"https://elsewhere/a.parquet": 1}', "not the name of a file"),
    (json.dumps({"a" * 5000: 1}), "not the name of a file"),
    ('{"": 1}', "not the name of a file"),
]


@pytest.mark.parametrize(("text", "message"), INDEXES, ids=[text[:30] for text, _ in INDEXES])
def test_an_index(tmp_path, text, message):
    (tmp_path / "index.json").write_text(text)
    refused(lambda: list_folder(f"file://{tmp_path}"), f"index.json.*{message}")


def test_an_index_that_is_too_large_or_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr(remote, "_TEXT_BYTES", 20)
    (tmp_path / "index.json").write_text('{"a.parquet": 12, "b.parquet": 5}')
    refused(lambda: list_folder(f"file://{tmp_path}"), "more than 20 bytes")
    (tmp_path / "index.json").write_bytes(b'{"\xff": 1}')
    refused(lambda: list_folder(f"file://{tmp_path}"), "not a text in UTF-8")


@pytest.fixture
def coco(tmp_path):
    """(write, annotations): `write(change)` lets `change(content)` alter the annotation file of a folder."""
    root = make_coco(tmp_path / "coco", train=3, val=1)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())

    def write(change):
        change(content)
        path.write_text(json.dumps(content))
        return path

    return write


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("images", {"id": 2**64}, "whole number"),
        ("images", {"id": -(2**64)}, "whole number"),
        ("images", {"id": [1]}, "whole number"),
        ("categories", {"id": 2**64}, "whole number"),
        ("annotations", {"id": 2**100}, "whole number"),
        ("images", {"file_name": "a" * 200_000}, "file_name of 200,000 characters"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_numbers_and_names_of_coco_records(coco, part, changes, message):
    refused(lambda: read_coco(path := coco(lambda content: content[part][0].update(changes)), path.parent), message)


def polygon(*values):
    return {"segmentation": [[*values]]}


@pytest.mark.parametrize(
    "changes",
    [
        {"image_id": [1]},
        {"image_id": {"a": 1}},
        {"image_id": 2**64},
        {"image_id": "x" * 100_000},
        {"category_id": [[1]]},
        {"category_id": 2**64},
        {"bbox": [0, 0, 10**400, 5]},
        {"bbox": [0, 0, 1e300, 5]},
        {"bbox": [[0], 0, 1, 1]},
        {"bbox": None},
        polygon(0, 0, 1e9, 0, 5, 5),
        polygon(0, 0, 10**400, 0, 5, 5),
        polygon(0, 0, 1e308, 0, -1e308, 5),
        polygon(*[0, 0, 9e8, 9e8] * 3),
        polygon(*[0, 0, 900_000, 900_000] * 200),
        {"segmentation": {"size": None, "counts": "abc"}},
        {"segmentation": {"size": 7, "counts": "abc"}},
        {"segmentation": {"size": [None, None], "counts": [1]}},
        {"segmentation": {"size": [64, 96], "counts": None}},
        {"segmentation": {"size": [64, 96], "counts": [[1]]}},
        {"segmentation": {"size": [64, 96], "counts": [2**70]}},
        {"segmentation": {"size": [64, 96], "counts": "o" * 5000}},
        {"segmentation": {"size": [64, 96]}},
        {"segmentation": "all"},
        {"segmentation": [[None] * 6]},
        {"segmentation": [None]},
    ],
    ids=lambda value: str(value)[:40],
)
def test_one_annotation_that_cannot_be_is_counted_and_the_others_kept(coco, changes):
    folder = coco(lambda content: None).parent.parent / "train2017"
    whole = len(read_coco(folder.parent / "annotations" / "instances_train2017.json", folder).labels)
    extra = annotation(9999, 100, 7, (1, 1, 20, 20)) | changes
    path = coco(lambda content: content["annotations"].append(extra))
    found = open_coco(folder, path, with_masks=True)
    box = changes.get("bbox", [])
    from_mask = "bbox" in changes and (box is None or [0] in box)  # not four numbers: computed from the mask
    assert found.usable.sum() == whole + from_mask
    assert sum(found.table.problems.counts().values()) >= 1
    assert all(len(line) < 500 for line in found.table.problems.lines())
    for number in range(len(found)):
        found.load(number)


@pytest.mark.parametrize(
    "changes",
    [
        polygon(*[v for x in range(100) for v in (x / 2, 5 + 40 * (x % 2))]),
        {"segmentation": {"size": [64.0, 96.0], "counts": [0, 10, 64 * 96 - 10]}, "bbox": [0, 0, 1, 10]},
    ],
    ids=["a long outline", "a size in decimals"],
)
def test_what_is_unusual_but_possible_is_kept(coco, changes):
    extra = annotation(9999, 100, 7, (0, 5, 50, 40)) | changes
    path = coco(lambda content: content["annotations"].append(extra))
    assert "9999" not in str(read_coco(path, path.parent.parent / "train2017").problems.found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n".join(f"class {i}" for i in range(100_000)), "100,000 lines|more than"),
        ("Idx Ratio\n" + "\n".join(f"{i}\t0\t0\t0\t0\tname" for i in range(50_000)), "lines"),
        ("x" * 3_000_000, "more than 1,048,576 bytes"),
        ("sky\nvoid " + "9" * 5000, "9{20} is not the value of a class in masks"),
        ("sky 1 2 " + "9" * 5000, "9{20} is not the value of a class in masks"),
    ],
    ids=["lines", "ADE20K lines", "bytes", "digits", "colour digits"],
)
def test_a_class_list(tmp_path, text, message):
    (tmp_path / "classes.txt").write_text(text)
    refused(lambda: ClassList.read(tmp_path / "classes.txt"), message)


@pytest.mark.parametrize("name", ["grid", "image_size", "images", "top_k", "num_classes", "shard_images", "mean"])
@pytest.mark.parametrize("value", [None, 0, -1, 10**30, "7", [], [1], {}, 1.5, [[7], [7]], True])
def test_the_description_of_label_maps(tmp_path, name, value):
    spec = dict(
        teacher="t", weights="w", image_size=[32, 32], mean=[0.5], std=[0.5], interpolation="bicubic", num_classes=9,
        grid=[2, 2], top_k=3, images=4, fingerprint="f", shard_images=2, format=2,
    )  # fmt: skip
    (tmp_path / INDEX).write_text(json.dumps(spec | {name: value}))
    if name in ("mean", "image_size") and value != [1]:  # of no consequence for reading the maps
        with contextlib.suppress(RMTError):
            LabelMapSpec.read(tmp_path)
    elif name != "mean":
        refused(lambda: LabelMapSpec.read(tmp_path), "label maps")


def test_a_table_with_a_name_of_200_kilobytes(tmp_path):
    (tmp_path / "images").mkdir()
    rows = ["file,label"]
    for number in range(20):
        Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "images" / f"{number}.png")
        rows.append(f"{number}.png,class {number % 2}")
    rows += ["x" * 100_000 + ",class 1", "x,class 1", "y," + "z" * 120_000]
    (tmp_path / "train.csv").write_text("\n".join(rows))
    found = open_splits(str(tmp_path)).train
    assert max(len(found.name(i)) for i in range(len(found))) < 500


def parquet(path, table):
    pq.write_table(table, path)
    return path


def test_parquet_files_of_odd_columns_and_metadata(tmp_path):
    image, label = pa.array([encode(picture(1), "PNG")] * 2, pa.binary()), pa.array([0, 1])
    twice = pa.Table.from_arrays([image, image, label], names=["image", "image", "label"])
    refused(lambda: open_parquet(parquet(tmp_path / "a.parquet", twice)), "more than one column image")
    table = pa.table({"image": image, "label": label})
    deep = table.replace_schema_metadata({"huggingface": "[" * 200_000})
    assert len(open_parquet(parquet(tmp_path / "b.parquet", deep))) == 2
    names = json.dumps({"info": {"features": {"label": {"names": ["a", "a"]}}}})
    alike = table.replace_schema_metadata({"huggingface": names})
    refused(lambda: open_parquet(parquet(tmp_path / "c.parquet", alike)), "classes of the same name: a; rename one")


def open_parquet(path):
    return ShardSet([path])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_a_tar(tmp_path, kind):
    """Those to other members are members; a few bytes each, they cannot unpack without bound; others are refused."""
    image = encode(picture(1), "PNG") + bytes(2**20)

    def tar(links, target):
        with tarfile.open(tmp_path / "train.tar", "w") as file:
            for number in range(2 + links):
                for name, data in ((f"{number}.png", image), (f"{number}.cls", b"01"[number % 2 : number % 2 + 1])):
                    member = tarfile.TarInfo(name)
                    if number > 1 and name.endswith(".png"):
                        member.type, member.linkname = kind, target
                        file.addfile(member)
                        continue
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
        return ShardSet([tmp_path / "train.tar"])

    assert len(tar(1, "0.png")) == 3
    refused(lambda: tar(1, "/etc/passwd"), "2.png is a link to /etc/passwd, no member of it")
    refused(lambda: tar(130, "0.png"), "its links unpack to more than 20 times its size")


@pytest.mark.parametrize(
    "size", [(10**9, 60), (40, 10**9), (20_000, 20_000), (-40, -60), (40.5, 60), ("1e9", 60)], ids=str
)
def test_the_size_of_an_image_that_annotations_state(tmp_path, size):
    """labelme and VOC: the mask of an object has that size. Impossible ones are read from the image instead."""
    made = {"labelme": tmp_path / "a", "voc": tmp_path / "b"}
    for place in (made["labelme"], made["voc"] / "JPEGImages", made["voc"] / "Annotations"):
        place.mkdir(parents=True)
    box = "".join(f"<{side}>{n}</{side}>" for side, n in dict(xmin=2, ymin=3, xmax=30, ymax=20).items())
    stated = f"<size><height>{size[0]}</height><width>{size[1]}</width></size>"
    xml = f"<annotation>{stated}<object><name>a</name><bndbox>{box}</bndbox></object></annotation>"
    shape = {"label": "a", "points": [[2, 3], [30, 3], [30, 20]], "shape_type": "polygon"}
    content = {"version": "5", "imageHeight": size[0], "imageWidth": size[1], "shapes": [shape]}
    for number in range(2):
        Image.new("RGB", (60, 40)).save(made["labelme"] / f"{number}.png")
        Image.new("RGB", (60, 40)).save(made["voc"] / "JPEGImages" / f"{number}.png")
        (made["labelme"] / f"{number}.json").write_text(json.dumps(content | {"imagePath": f"{number}.png"}))
        (made["voc"] / "Annotations" / f"{number}.xml").write_text(xml)
    for root in made.values():
        found = open_detection(detection_layout(str(root)), with_masks=None, empty_images=True, holdout=0.5).train
        assert found.sizes.tolist() == [[40, 60]]
        assert found.objects(0).boxes[0, 2] == 30
