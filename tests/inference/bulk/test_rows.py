"""Rows of detectors and segmenters in every format: boxes, shares and masks are those of the prediction."""

import csv
import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import rmt
from rmt.commands.cli import main
from rmt.data.detection.rle import decode, encode
from rmt.heads import save_model
from rmt.inference.bulk.formats import FORMATS
from rmt.inference.bulk.rows import AreaRows, ObjectRows
from rmt.inference.detect import Detections

CLASSES = ("ant", "bee", "cat")
LABELS = torch.tensor([[0, 0, 2, 2], [0, 0, 0, 2]], dtype=torch.uint8)
MASK = np.array([[[0, 1, 1, 0], [0, 1, 0, 0]]], bool)


def found(masks: bool) -> Detections:
    boxes = np.array([[1, 0, 3, 2], [0, 0, 1, 1]], np.float32)
    runs = [*encode(MASK), *encode(~MASK)] if masks else None
    return Detections(boxes, np.array([1, 2]), np.array([0.75, 0.25], np.float32), runs, (2, 4))


NOTHING = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), [], (2, 4))


def written(rows, outputs, tmp_path) -> tuple[list, list, list]:
    """What the three files have."""
    table = rows.table([str(i) for i in range(len(outputs))], "net@0", outputs)
    for suffix, form in FORMATS.items():
        if suffix == ".parquet" or rows.masks != "png":
            form.write(tmp_path / f"x{suffix}", None, [table], rows)
            assert {image for image, _ in form.keys(tmp_path / f"x{suffix}")} == {"0", "1"}
    lines = flat = []
    if rows.masks != "png":
        lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
        with open(tmp_path / "x.csv", newline="") as file:
            flat = list(csv.DictReader(file))
    return pq.read_table(tmp_path / "x.parquet").to_pylist(), lines, flat


@pytest.mark.parametrize("masks", ["rle", "png", "none"])
def test_objects(masks, tmp_path):
    rows = ObjectRows(CLASSES, (7, None, 9), masks, threshold=0.0)
    table, lines, flat = written(rows, [found(True), NOTHING], tmp_path)
    (first, second), empty = table[0]["objects"], table[1]
    assert (table[0]["width"], table[0]["height"], empty["objects"]) == (4, 2, [])
    assert (first["label"], first["category_id"], first["score"], first["bbox"]) == ("bee", None, 0.75, [1, 0, 2, 2])
    assert (second["label"], second["category_id"]) == ("cat", 9)
    if masks == "rle":
        assert decode(first["segmentation"], 2, 4).astype(bool).tolist() == MASK[0].tolist()
    if masks == "png":
        assert np.asarray(Image.open(io.BytesIO(first["mask"]))).tolist() == MASK[0].tolist()
        return
    assert lines == table
    assert [(r["image"], r["label"], r["left"], r["box_width"]) for r in flat] == [
        ("0", "bee", "1.0", "2.0"),
        ("0", "cat", "0.0", "1.0"),
        ("1", "", "", ""),  # so that it is known that this image was looked at
    ]
    assert [r.get("segmentation", "") for r in flat][:1] == (
        [first["segmentation"]["counts"]] if masks == "rle" else [""]
    )


def test_objects_from_a_score_up():
    rows = ObjectRows(CLASSES, (7, None, 9), "rle", threshold=0.5)
    assert [o["label"] for o in rows.values(found(True))["objects"]] == ["bee"]
    assert rows.values(found(False))["objects"][0].get("segmentation") is None


@pytest.mark.parametrize("masks", ["rle", "png", "none"])
def test_areas(masks, tmp_path):
    table, lines, flat = written(AreaRows(CLASSES, masks), [LABELS, LABELS * 0], tmp_path)
    first, second = table[0]["areas"]
    assert [(a["label"], a["index"], a["share"]) for a in (first, second)] == [("ant", 0, 0.625), ("cat", 2, 0.375)]
    if masks == "rle":
        assert (decode(second["segmentation"], 2, 4) > 0).tolist() == (LABELS == 2).tolist()
    if masks == "png":
        assert np.asarray(Image.open(io.BytesIO(table[0]["mask"]))).tolist() == LABELS.tolist()
        return
    assert lines == table
    assert [(r["image"], r["label"], r["share"]) for r in flat] == [
        ("0", "ant", "0.625"),
        ("0", "cat", "0.375"),
        ("1", "ant", "1.0"),
    ]


def test_the_command_takes_detectors_and_segmenters(tmp_path, capsys):
    """The file has what `predict` returns, in the sizes of the images, and `--masks` is refused where it cannot be."""
    Image.new("RGB", (80, 64), "red").save(tmp_path / "a.png")
    detector = rmt.detector("retinanet", backbone="rmt_test", num_classes=5)
    segmenter = rmt.segmenter("semantic_fpn", backbone="rmt_test", num_classes=5)
    for task, model, size in (("detect", detector, [64, 96]), ("segment", segmenter, [64, 64])):
        path = tmp_path / f"{task}.safetensors"
        sizes = {"size": size, "short_side": 64, "long_side": 128}
        save_model(model, path, classes=list("abcde"), preprocessing=sizes)
        words = ["predict", str(path), str(tmp_path / "a.png"), "--device", "cpu", "--output"]
        assert main([*words, str(tmp_path / f"{task}.parquet"), "--masks", "none", "--no-pictures"]) == 0
        (row,) = pq.read_table(tmp_path / f"{task}.parquet").to_pylist()
        assert (row["width"], row["height"]) == (80, 64)
        (want,) = rmt.load(path, device="cpu").predict(tmp_path / "a.png")
        if task == "detect":
            assert [o["score"] for o in row["objects"]] == pytest.approx(want.scores.tolist())
            capsys.readouterr()
            assert main([*words, str(tmp_path / "x.csv"), "--threshold", "50"]) == 1
            assert "--threshold must lie in [0, 1], not 50" in capsys.readouterr().err
        else:
            assert sum(area["share"] for area in row["areas"]) == pytest.approx(1)
        capsys.readouterr()
        assert main([*words, str(tmp_path / "x.csv"), "--masks", "png"]) == 1
        assert "--masks png needs --output FILE.parquet" in capsys.readouterr().err
