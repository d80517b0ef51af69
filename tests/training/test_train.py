import json
import math
from dataclasses import replace

import pytest
import torch
from helpers.runs import assert_same_run, finished_run, photos, rows, tiny_recipe, weights
from PIL import Image

import rmt
from rmt.model import read_metadata
from rmt.recipes import from_dict
from rmt.tasks.classify.module import ClassifyModule
from rmt.training.checkpoints.io import read_state
from rmt.training.evaluator import MetricColumns
from rmt.training.progress import Best


def test_the_run_folder_holds_what_the_contract_names():
    names = {file.name for file in finished_run().iterdir()}
    contract = {"recipe.json", "metrics.csv", "metrics.json", "report.png", "last.ckpt", "last.safetensors"}
    contract |= {"last-ema.safetensors", "best.safetensors", "report.json", "data.jsonl.gz"}
    assert contract <= names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert names - contract == {n for n in names if n.startswith("events.")} | {"last.previous.ckpt"}


def test_the_recipe_as_run_is_kept():
    recipe = from_dict(json.loads((finished_run() / "recipe.json").read_text()))
    assert (recipe.devices, recipe.nodes, recipe.stream, recipe.precision) == (1, 1, "no", "fp32")
    assert recipe == tiny_recipe(output=str(finished_run()), nodes=1, stream="no", precision="fp32", strategy="ddp")


def test_metrics_give_last_and_best_raw_and_averaged_apart():
    metrics = json.loads((finished_run() / "metrics.json").read_text())
    table = [row for row in rows(finished_run()) if row["kind"] == "epoch"]
    assert metrics["last"]["epoch"] == 3
    for kind, column in (("raw", "val_top1"), ("ema", "ema_val_top1")):
        assert metrics["last"][kind]["val"]["top1"] == float(table[-1][column])
        best = max(table, key=lambda row: float(row[column]))
        assert metrics["best_val"][kind] == {"top1": float(best[column]), "epoch": int(best["epoch"])}
    record = metrics["best_val"][metrics["best"]["weights"]]
    assert metrics["best"]["val"]["top1"] == record["top1"] == max(b["top1"] for b in metrics["best_val"].values())
    assert metrics["images"] == {"train": 24, "val": 12}  # no test images, and no scores called so
    assert "test" not in metrics["best"] and metrics["best"]["val"]["images"] == 12
    assert "optimistic" in metrics["best_chosen_on"]


def test_of_scores_within_the_error_of_the_highest_the_latest_is_best(tmp_path, capsys):
    """As after the hour on CIFAR-10: 88.3 % of 1,000 images has a standard error of 1.02 points."""
    columns = MetricColumns(("top1",), "top1", "top-1", tolerance=1.0)
    margin = columns.margin({"top1": 88.3, "images": 1000})
    assert margin == pytest.approx(1.0164, abs=1e-4)
    record = Best()
    for epoch, score in enumerate((70.0, 88.3, 87.4, 88.1, 87.2, 80.0), start=1):
        record.offer(score, epoch, margin)
    assert (record.score, record.epoch, record.highest, record.highest_epoch) == (88.1, 4, 88.3, 2)
    exact = Best()
    for epoch, score in enumerate((70.0, 88.3, 88.3), start=1):
        exact.offer(score, epoch, MetricColumns(("top1",), "top1", "top-1").margin({"top1": score, "images": 1000}))
    assert exact.epoch == 2

    metrics = rmt.train(tiny_recipe(output=str(tmp_path), best_tolerance=100.0)).metrics
    assert metrics["best"]["epoch"] == metrics["last"]["epoch"] == 3
    assert read_metadata(tmp_path / "best.safetensors")["metrics"]["epoch"] == 3
    highest = metrics["highest_val"][metrics["best"]["weights"]]
    assert highest["top1"] == max(entry["top1"] for entry in metrics["highest_val"].values())
    said = f"the highest score there was {highest['top1']:.2f} %, in epoch {highest['epoch']}"
    assert (said in capsys.readouterr().out) == (highest["epoch"] < 3)


def test_a_row_has_the_rate_of_its_last_update():
    """Nine updates: a linear warm-up of three from 1e-6, then the cosine from 2e-3 to 1e-5."""
    expected = [1e-6 + u * (2e-3 - 1e-6) / 3 for u in range(3)]
    expected += [1e-5 + (2e-3 - 1e-5) * (1 + math.cos(math.pi * u / 9)) / 2 for u in range(3, 9)]
    for row in rows(finished_run()):
        assert float(row["lr"]) == pytest.approx(expected[int(row["step"]) - 1], rel=1e-6)


def test_every_weight_file_stands_alone():
    for name in ("last", "last-ema", "best"):
        path = finished_run() / f"{name}.safetensors"
        metadata = read_metadata(path)
        assert metadata["classes"] == ["blue", "green", "red"]
        assert metadata["recipe"]["name"] == "tiny"
        assert metadata["metrics"]["val"]["images"] == 12
        assert rmt.load(path, device="cpu").model.num_classes == 3


def test_the_state_holds_tensors_and_plain_values_only():
    state = read_state(finished_run() / "last.ckpt")  # weights_only inside
    assert state["global_step"] == 9


def test_the_report_is_a_picture():
    with Image.open(finished_run() / "report.png") as picture:
        assert picture.width == 1600
        assert picture.height > 1000


def test_a_seed_repeats_bit_for_bit_and_another_does_not(tmp_path):
    again = rmt.train(tiny_recipe(output=str(tmp_path / "again")))
    assert_same_run(again.folder, finished_run())
    other = rmt.train(tiny_recipe(output=str(tmp_path / "other"), seed=1, epochs=1, warmup_epochs=0.0))
    ours, theirs = weights(again.folder), weights(other.folder)
    assert not any(torch.equal(ours[name], theirs[name]) for name in ours if name.endswith("attn.q.weight"))


def test_the_caller_s_own_results_do_not_depend_on_the_workers(tmp_path):
    with_workers = rmt.train(tiny_recipe(output=str(tmp_path), workers=2))
    assert_same_run(with_workers.folder, finished_run())


def test_best_is_chosen_on_images_held_out_of_train(tmp_path):
    result = rmt.train(tiny_recipe(output=str(tmp_path), selection=6.0, epochs=1, warmup_epochs=0.0))
    assert result.metrics["images"] == {"train": 18, "val": 6, "test": 12}
    assert result.metrics["best_chosen_on"] == "6 images held out of train"


def test_the_test_images_are_read_once_at_the_end(tmp_path, monkeypatch):
    from rmt.data.sources.folders import FolderSet

    read = []
    load = FolderSet.load

    def spy(self, index):
        read.append(self.name(index))
        return load(self, index)

    monkeypatch.setattr(FolderSet, "load", spy)
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    rmt.train(tiny_recipe(output=str(tmp_path), selection=6.0))
    test = [place for place, name in enumerate(read) if "/val/" in name]
    assert len(test) == 12
    assert test == list(range(len(read) - 12, len(read)))


@pytest.mark.parametrize("warmup", [False, True])
def test_the_averaged_weights_follow_every_update(warmup, tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    name, after = "head.fc.weight", []
    step = ClassifyModule.optimizer_step

    def recording(self, *args, **kwargs):
        if not after:
            after.append(self.model.get_parameter(name).detach().clone())  # before the first update
        step(self, *args, **kwargs)
        after.append(self.model.get_parameter(name).detach().clone())

    monkeypatch.setattr(ClassifyModule, "optimizer_step", recording)
    result = rmt.train(tiny_recipe(output=str(tmp_path), ema_warmup=warmup))
    average = after[0]
    for update, weight in enumerate(after[1:], start=1):
        decay = min(0.8, 1 - update**-0.75) if warmup else 0.8
        average = decay * average + (1 - decay) * weight
    assert len(after) == 1 + 9
    torch.testing.assert_close(weights(result.folder)[f"last-ema/{name}"], average)


def test_early_stopping_ends_the_run(tmp_path):
    # at a learning rate this small no epoch is better than the first
    result = rmt.train(
        tiny_recipe(output=str(tmp_path), early_stopping=2, epochs=9, lr=1e-9, min_lr=0.0, warmup_lr=0.0, ema_decay=0.0)
    )
    assert result.metrics["last"]["epoch"] == result.metrics["best"]["epoch"] + 2


def test_bad_values_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(rmt.RMTError, match="--epochs"):
        rmt.train(tiny_recipe(output=str(tmp_path / "run"), epochs=-1))
    with pytest.raises(rmt.RMTError, match="--data"):
        rmt.train(tiny_recipe(output=str(tmp_path / "run"), data=""))
    with pytest.raises(rmt.RMTError, match="rmt_gigantic"):
        rmt.train(tiny_recipe(output=str(tmp_path / "run"), model="rmt_gigantic"))
    with pytest.raises(rmt.RMTError, match="nowhere"):
        rmt.train(tiny_recipe(output=str(tmp_path / "run"), data=str(tmp_path / "nowhere")))
    assert not (tmp_path / "run").exists()


def test_unreadable_images_are_named_and_counted_and_the_run_goes_on(tmp_path, capsys):
    import shutil

    folder = shutil.copytree(photos(), tmp_path / "photos")
    (folder / "train" / "red" / "0.png").write_bytes(b"not a picture")
    (folder / "val" / "blue" / "1.png").write_bytes(b"")
    for split, count in (("train", 10), ("val", 4)):
        for number in range(count):
            (folder / split / "red" / f"notes-{number}.txt").write_text("hello")
    result = rmt.train(tiny_recipe(output=str(tmp_path / "run"), data=str(folder)))
    unreadable = result.metrics["unreadable"]
    assert any("0.png" in name for name in unreadable["train and val"])
    assert any("1.png" in name for name in unreadable["train and val"])
    assert result.metrics["best"]["val"]["images"] == 11
    printed = capsys.readouterr().out
    assert "unreadable images skipped in train and val" in printed
    assert result.metrics["skipped_files"] == {"train": {"not an image": 10}, "val": {"not an image": 4}}
    assert "skipped in train: 10 × not an image\nskipped in val: 4 × not an image" in printed
    assert "1.png" in printed


def test_fewer_images_than_a_batch(tmp_path):
    result = rmt.train(tiny_recipe(output=str(tmp_path), batch_size=100, accumulate=1, epochs=1, warmup_epochs=0.0))
    assert result.metrics["effective_batch"] == 24
    with pytest.raises(rmt.RMTError, match="lower --accumulate"):
        rmt.train(tiny_recipe(output=str(tmp_path / "b"), batch_size=100, accumulate=2))


def test_recipes_can_be_changed_like_any_dataclass():
    assert replace(tiny_recipe(), epochs=7).epochs == 7
