"""Files of answers: the same as `predict` gives, whole, continued, and refused where they are another network's."""

import csv
import errno
import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import rmt
from rmt.commands.cli import main
from rmt.data.sources.collection import open_collection
from rmt.errors import RMTError
from rmt.inference.bulk import job, ray_engine
from rmt.inference.bulk.formats import NotWhole
from rmt.inference.bulk.job import write_answers
from rmt.inference.bulk.work import Embedding, Prediction
from rmt.model import create_model

OPTIONS = ("--device", "cpu", "--workers", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Nine images; number 5 cannot be read."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(9):
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number}.png")
    (folder / "5.png").write_bytes(b"none")
    return folder


def checkpoint(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    path = folder / f"{seed}.safetensors"
    preprocessing = {"size": [32, 32], "mean": [0.5] * 3, "std": [0.2] * 3, "crop_pct": 1.0}
    model = create_model("rmt_test", num_classes=4)
    rmt.save_checkpoint(model, path, classes=["a", "b", "c", "d"], preprocessing=preprocessing)
    return path


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("network"), 0)


def good(data: Path) -> list[Path]:
    return [path for path in sorted(data.iterdir()) if path.name != "5.png"]


def predict(network, data, output, *more) -> int:
    return main(["predict", str(network), str(data), "--output", str(output), *OPTIONS, *more])


def test_the_three_formats_have_what_predict_returns(network, data, tmp_path, capsys):
    want = rmt.load(network, device="cpu").predict(good(data), top_k=2)
    names = list(map(str, good(data)))
    for suffix in ("parquet", "csv", "jsonl"):
        assert predict(network, data, tmp_path / f"x.{suffix}", "--top-k", "2", "--batch-size", "4") == 1
        out, err = capsys.readouterr()
        assert f"{data / '5.png'}: not an image" in err and "8 images by rmt_test@" in out and "1 could not be" in out
        assert not (tmp_path / f"x.{suffix}.parts").exists()
    rows = pq.read_table(tmp_path / "x.parquet").to_pylist()
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    for found in (rows, lines):
        assert [row["image"] for row in found] == names
        for row, ranking in zip(found, want, strict=True):
            assert [(p["label"], p["index"]) for p in row["predictions"]] == [(p.label, p.index) for p in ranking]
            assert [p["probability"] for p in row["predictions"]] == pytest.approx([p.probability for p in ranking])
    with open(tmp_path / "x.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [(r["image"], r["label"], r["label_2"]) for r in table] == [
        (name, first.label, second.label) for name, (first, second) in zip(names, want, strict=True)
    ]
    assert len({row["model"] for row in (*rows, *lines, *table)}) == 1


@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_second_call_adds_what_is_missing(network, data, tmp_path, suffix, capsys):
    whole, output = tmp_path / f"whole.{suffix}", tmp_path / f"x.{suffix}"
    predict(network, data, whole)
    predict(network, data / "[0-3].png", output)
    capsys.readouterr()
    assert predict(network, data, output) == 1  # the image that cannot be read is tried again
    assert "4 images of an earlier call, 4 images by" in capsys.readouterr().out
    if suffix == "parquet":
        assert pq.read_table(output).equals(pq.read_table(whole))
    else:
        assert output.read_bytes() == whole.read_bytes()


def test_an_interrupted_call_is_continued(network, data, tmp_path, monkeypatch):
    """Whenever it is interrupted, no image is predicted twice, and the file is that of one call."""
    work = Prediction(checkpoint=network, load_options={"device": "cpu"}, batch_size=2, workers=0)
    images, seen, stops = open_collection(good(data)), [], [2, 6]
    write_answers(work, images, tmp_path / "whole.parquet")
    monkeypatch.setattr(job, "PART_IMAGES", 3)
    remove = shutil.rmtree

    def stopping(work, worker, collection, indices):
        for done in worker.run(collection, indices):
            yield done
            seen.extend(done.table["image"].to_pylist())
            if stops and len(seen) == stops[0]:
                stops.pop(0)
                raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_answers(work, images, tmp_path / "x.parquet", engine=stopping)
        assert not (tmp_path / "x.parquet").exists()
    part = sorted((tmp_path / "x.parquet.parts").iterdir())[0]
    part.write_bytes(part.read_bytes()[:-9])  # as after a power cut: it is made again
    seen[:] = seen[2:]
    monkeypatch.setattr(shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))  # the file is there, its parts too
    with pytest.raises(KeyboardInterrupt):
        write_answers(work, images, tmp_path / "x.parquet", engine=stopping)
    assert list((tmp_path / "x.parquet.parts").iterdir())
    monkeypatch.setattr(shutil, "rmtree", remove)
    write_answers(work, images, tmp_path / "x.parquet", engine=stopping)
    assert not (tmp_path / "x.parquet.parts").exists()
    assert sorted(seen) == sorted(map(str, good(data)))
    assert pq.read_table(tmp_path / "x.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))


def test_embeddings(network, data, tmp_path):
    words = ["embed", str(network), str(data), *OPTIONS, "--batch-size", "4"]
    assert main([*words, "--output", str(tmp_path / "x.parquet")]) == 1
    assert main([*words, "--output", str(tmp_path / "y.parquet"), "--stage", "2", "--dtype", "fp16"]) == 1
    predictor = rmt.load(network, device="cpu")
    for name, options in (("x", {}), ("y", {"stage": 2, "dtype": "fp16"})):
        table = pq.read_table(tmp_path / f"{name}.parquet")
        assert table["image"].to_pylist() == list(map(str, good(data)))
        found = np.array(table["embedding"].to_pylist())
        np.testing.assert_allclose(found, predictor.embed(good(data), **options).numpy(), rtol=1e-3, atol=1e-4)
    assert (
        str(pq.read_schema(tmp_path / "y.parquet").field("embedding").type) == "fixed_size_list<element: halffloat>[16]"
    )


def test_names_that_are_no_text_and_images_named_twice(network, data, tmp_path):
    import os

    name = os.fsencode(tmp_path) + b"/\xff.png"
    with open(name, "wb") as file:
        file.write((data / "0.png").read_bytes())
    words = [os.fsdecode(name), str(data / "0.png"), str(data / "0.png")]
    assert main(["predict", str(network), *words, "--output", str(tmp_path / "x.csv"), *OPTIONS]) == 0
    with open(tmp_path / "x.csv", newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [f"{tmp_path}/\\xff.png", str(data / "0.png")]


def test_mistakes_are_one_line(network, data, tmp_path, capsys):
    def refused(*words) -> str:
        assert main([str(word) for word in words]) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    output, image = tmp_path / "x.parquet", data / "0.png"
    assert main(["predict", str(network), str(image), "--output", str(output), *OPTIONS]) == 0
    capsys.readouterr()
    other = checkpoint(tmp_path, 1)
    for words in ((other,), (network, "--top-k", "2"), (network, "--image-size", "64")):
        line = refused("predict", words[0], image, *words[1:], "--output", output, *OPTIONS)
        assert "x.parquet has answers of rmt_test@" in line and "another network or other options" in line
    assert "has answers of" in refused("embed", network, image, "--output", output, *OPTIONS)
    for suffix, cut in (("parquet", -20), ("csv", -3), ("jsonl", -3)):
        path = tmp_path / f"cut.{suffix}"
        assert main(["predict", str(network), str(image), "--output", str(path), *OPTIONS]) == 0
        path.write_bytes(path.read_bytes()[:cut])
        capsys.readouterr()
        line = refused("predict", network, image, "--output", path, *OPTIONS)
        assert f"{path} is no whole file of answers" in line and "delete it, or choose another --output" in line
    (tmp_path / "other.csv").write_text("name,label\na,b\n")
    assert "its columns are others" in refused("predict", network, image, "--output", tmp_path / "other.csv")
    (tmp_path / "empty").mkdir()
    for line, *words in (
        ("empty: no images", "predict", network, tmp_path / "empty", "--output", tmp_path / "n.csv"),
        ("name a file of answers", "predict", network, image, "--output", tmp_path / "n.txt"),
        ("name it FILE.parquet", "embed", network, image, "--output", tmp_path / "n.csv"),
        ("--stage must lie in 1 to 4", "embed", network, image, "--stage", "9", "--output", tmp_path / "n.parquet"),
        ("--engine ray is for files of answers", "predict", network, image, "--engine", "ray"),
        ("add --engine ray", "predict", network, image, "--replicas", "2", "--output", tmp_path / "n.csv"),
        ("--masks: not an option", "predict", network, image, "--masks", "rle"),
        ("--json prints answers", "predict", network, image, "--json", "--output", tmp_path / "n.csv"),
        ("--batch-size must be at least 1", "predict", network, image, "--batch-size", "0"),
        ("--top-k must be at least 1, not 0", "predict", network, image, "--top-k", "0"),
        (
            "--workers must be at least 0",
            "embed",
            network,
            image,
            "--workers",
            "-1",
            "--output",
            tmp_path / "n.parquet",
        ),
        ("cannot write", "predict", network, image, "--output", image / "n.csv"),
        ("name at least one image", "predict", network),
        ("name at least one image: rmt embed", "embed", "--output", tmp_path / "n.parquet"),
    ):
        errors = refused(*words, "--device", "cpu")
        assert line in errors
    assert main(["predict", str(network), str(data / "5.png"), "--output", str(tmp_path / "n.csv"), *OPTIONS]) == 1
    first, last = capsys.readouterr().err.splitlines()
    assert "5.png: not an image" in first and "no image of 1 could be read" in last
    assert not list(tmp_path.glob("n.*"))


def test_a_full_disk_is_not_said_to_be_a_damaged_file(network, data, tmp_path, monkeypatch):
    output = tmp_path / "x.parquet"
    predict(network, data / "[0-3].png", output)
    before = output.read_bytes()
    write = pq.ParquetWriter.write_table

    def full(self, *arguments, **options):
        if Path(self.where).name.startswith(".x.parquet"):  # not a part
            raise OSError(errno.ENOSPC, "no space")
        write(self, *arguments, **options)

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    work = Prediction(checkpoint=network, load_options={"device": "cpu"}, workers=0)
    with pytest.raises(RMTError, match=r"cannot write .*x\.parquet: the disk is full") as refused:
        write_answers(work, open_collection(good(data)), output)
    assert not isinstance(refused.value, NotWhole) and output.read_bytes() == before


@pytest.mark.parametrize("other", [False, True])
def test_every_process_of_ray_has_the_precision_of_this_one(network, data, tmp_path, monkeypatch, other):
    """ "auto" is float32 here and bfloat16 where there is a GPU. A file of another network is not mixed in."""
    precisions = []

    def run_chunks(replica, arguments, chunks, **options):
        work, collection = arguments
        precisions.append(work.load_options["precision"])
        changed = replace(work, checkpoint=checkpoint(tmp_path, 1)) if other else work
        return map(replica(changed, collection), chunks)

    monkeypatch.setattr(ray_engine, "require_ray", lambda: None)
    monkeypatch.setattr(ray_engine, "run_chunks", run_chunks)
    work = Prediction(checkpoint=network, load_options={"device": "cpu", "precision": "auto"}, workers=0)
    images = open_collection(good(data)[:2])
    with pytest.raises(RMTError, match="another one on its machine") if other else nullcontext():
        assert write_answers(work, images, tmp_path / "x.csv", engine=ray_engine.RayEngine()).images == 2
    assert precisions == ["fp32"]


def test_work_is_described_by_what_changes_answers(network):
    """The fingerprint depends on settings, but not on how many images are run at the same time."""
    predictor = rmt.load(network, device="cpu")
    base = Prediction(checkpoint=network).model(predictor)
    assert Prediction(checkpoint=network, batch_size=7, workers=9).model(predictor) == base
    others = [Prediction(checkpoint=network, run_options={"top_k": 3}), Prediction(checkpoint=network, masks="none")]
    others += [Embedding(checkpoint=network), Embedding(checkpoint=network, stage=1)]
    assert len({base, *(work.model(predictor) for work in others)}) == 5
