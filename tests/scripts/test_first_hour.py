"""The table of `benchmarks/first_hour.py`, the data that it makes, and the networks of `benchmarks/baselines.py`."""

import io
import json

import pyarrow as pa
import pytest
import torch
from helpers.scripts_under_test import script
from PIL import Image
from pyarrow import parquet

FIRST_HOUR, BASELINES = script("first_hour", "benchmarks"), script("baselines", "benchmarks")


def entry(kind: str, seed: int, score: float) -> dict:
    about = {"cell": "camvid", "kind": kind, "seed": seed, "metric": "mIoU", "score": score}
    return about | {"cpu_seconds": 880.0 + seed, "cpu": "a CPU", "commit": "abc", "plan": [f"plan of seed {seed}"]}


def test_the_table_has_the_median_of_the_seeds(tmp_path):
    entries = [entry("rmt", seed, score) for seed, score in ((2, 44.0), (0, 43.0), (1, 47.04))]
    text = FIRST_HOUR.table([*entries, entry("baseline", 0, 36.0)])
    (row,) = [line for line in text.splitlines() if "CamVid" in line]
    assert "`rmt train finetune-segment --data camvid --minutes 15`" in row
    assert "**44.0 % mIoU** (43.0, 47.0, 44.0) | 881 s | U-Net: 36.0 % mIoU (36.0)" in row
    page = tmp_path / "page.md"
    plan = "<!-- first-hour: plan of {} -->\n{}<!-- /first-hour -->\n"
    start, end = (
        "before\n<!-- first-hour -->\n",
        "<!-- /first-hour -->\nafter\n" + plan.format("bccd", "not measured\n"),
    )
    page.write_text(start + "old\n" + end + plan.format("camvid", ""))
    for _ in range(2):
        FIRST_HOUR.fill(page, entries)
    expected = "\n".join(FIRST_HOUR.table(entries).splitlines())
    assert page.read_text() == f"{start}{expected}\n{end}" + plan.format("camvid", "```\nplan of seed 0\n```\n")
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="no line <!-- first-hour -->"):
        FIRST_HOUR.fill(page, entries)


def test_a_measured_cell_is_not_run_again(tmp_path, monkeypatch):
    for name in ("cifar10", "bccd", "camvid"):
        (tmp_path / "data" / name).mkdir(parents=True)
    monkeypatch.setattr(FIRST_HOUR, "take_rows", lambda source, target, count: None)
    results = tmp_path / "results.json"
    results.write_text(json.dumps([entry("rmt", 0, 44.0)]))
    bench = FIRST_HOUR.Bench(tmp_path / "data", tmp_path / "work", results)
    monkeypatch.setattr(bench, "timed", lambda command, log: pytest.fail(f"ran {command}"))
    bench.run("camvid", 0)
    bench.run_baseline("camvid", 1)  # no run of the same seed, whose CPU seconds it would take
    bench.add("camvid", 1, "rmt", entry("rmt", 1, 45.0))
    assert [e["seed"] for e in json.loads(results.read_text())] == [0, 1]


def test_the_first_rows_are_taken(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(file, "PNG")
    (tmp_path / "all").mkdir()
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        rows = {"image": [{"bytes": file.getvalue(), "path": "x.png"}] * 2, "label": [0, 1]}
        table = pa.table(rows).replace_schema_metadata({"huggingface": "{}", "rmt": "a check sum"})
        parquet.write_table(table, tmp_path / "all" / f"{name}.parquet")
    FIRST_HOUR.take_rows(tmp_path / "all", tmp_path / "some", 3)
    assert parquet.read_schema(tmp_path / "some" / "train-00000-of-00001.parquet").metadata == {b"huggingface": b"{}"}
    images, labels = BASELINES.cifar(tmp_path / "some", "train")
    assert images.shape == (3, 3, 32, 32) and labels.tolist() == [0, 1, 0]
    assert len(BASELINES.cifar(tmp_path / "some", "test")[0]) == 2


def test_the_baselines_are_of_the_stated_size():
    resnet, unet = BASELINES.resnet9(), BASELINES.UNet(11)
    assert sum(p.numel() for p in resnet.parameters()) == pytest.approx(0.4e6, rel=0.05)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(1.9e6, rel=0.05)
    with torch.no_grad():
        assert resnet(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
        assert unet(torch.zeros(2, 3, 32, 48)).shape == (2, 11, 32, 48)


def test_the_learning_rate_follows_the_cpu_time(monkeypatch):
    budget, seconds = BASELINES.Budget(100), iter((7.5, 15.0, 57.5, 120.0))
    monkeypatch.setattr(BASELINES.time, "process_time", lambda: next(seconds))
    optimizer, rates = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), []
    for _ in range(4):
        budget.one_cycle(optimizer, 0.2)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.2, 0.1, 0.0])
