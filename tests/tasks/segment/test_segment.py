"""A segmentation run from recipe to prediction: the shared trainer by iterations, exact resume, files, commands."""

import functools
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.resolved import built, resolved
from helpers.runs import assert_same_run, rows
from helpers.segment_data import CLASSES, make_segments, picture
from helpers.segment_runs import data, finished, tiny
from helpers.together import recipe_file, together
from PIL import Image

import rmt
from rmt.commands.cli import main
from rmt.model import create_model, read_metadata
from rmt.recipes import SegmentRecipe
from rmt.tasks import resume
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.evaluate import evaluate_checkpoint
from rmt.tasks.segment.module import SegmentModule
from rmt.training.optimizers import build_adamw
from rmt.training.trainer import build_trainer


def test_a_run_by_iterations_leaves_the_usual_folder():
    metrics = json.loads((finished() / "metrics.json").read_text())
    table = [row for row in rows(finished()) if row["kind"] == "epoch"]
    assert [row["step"] for row in table] == ["2", "4", "6"]
    assert metrics["iterations"] == 6
    assert metrics["last"]["epoch"] == 3
    assert metrics["last"]["raw"]["val"]["miou"] == float(table[-1]["val_miou"])
    assert "test" not in {*metrics["last"]["raw"], *metrics["best"], *metrics["images"]}  # there are no test images
    best = max(max(float(row["val_miou"]), float(row["ema_val_miou"])) for row in table)
    assert metrics["best"]["val"]["miou"] == best
    assert {row["class"] for row in metrics["details"]["best"]["per_class"]} == set(CLASSES)
    assert metrics["details"]["best"]["most_frequent"]["class"] == "background"
    with Image.open(finished() / "report.png") as page:
        assert page.width == 1600
    for name in ("last", "last-ema", "best"):
        metadata = read_metadata(finished() / f"{name}.safetensors")
        assert (metadata["task"], metadata["head"], tuple(metadata["classes"])) == ("segment", "semantic_fpn", CLASSES)
        assert metadata["preprocessing"]["short_side"] == 32


class Killed(BaseException):
    """What stands for a kill inside this process."""


@pytest.mark.parametrize(("method", "call"), [("training_step", 3), ("training_step", 6), ("validation_step", 6)])
def test_a_kill_anywhere_and_a_resume_are_bit_equal(tmp_path, monkeypatch, method, call):
    finished()
    monkeypatch.setattr("rmt.tasks.segment.report.draw_report", lambda *args: None)
    calls, original = [], getattr(SegmentModule, method)

    def fatal(self, *args):
        calls.append(0)
        if len(calls) == call:
            raise Killed
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(SegmentModule, method, fatal)
        with pytest.raises(Killed):
            rmt.train(tiny(output=str(tmp_path), checkpoint_minutes=1e-9))
    resume(tmp_path)
    assert_same_run(tmp_path, finished())


def test_it_learns_its_colours(tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.tasks.segment.report.draw_report", lambda *args: None)
    recipe = tiny(output=str(tmp_path), iterations=160, validate_every=160, accumulate=1, ema_decay=0.0, drop_path=0.0)
    result = rmt.train(replace(recipe, lr=5e-3, distortion=0.0, head_width=16, warmup_iterations=5))
    assert result.metrics["last"]["raw"]["val"]["miou"] > 70
    assert result.metrics["details"]["raw"]["most_frequent"]["miou"] < 30


def observe(recipe: SegmentRecipe) -> dict[str, Any]:
    """Everything a run's outcome hangs on, as plain values."""
    torch.manual_seed(0)
    module = built(recipe)
    recipe = module.recipe
    optimizer = module.build_optimizer()
    schedule = module.build_schedule(optimizer)
    batch = next(iter(module.data.train_loader(recipe)))
    seen: dict[str, Any] = {
        "train": len(module.data.train),
        "classes": module.data.classes,
        "image": batch["image"],
        "mask": batch["mask"],
        "judged": next(iter(module.data.val_loader(recipe)))["image"][0],
        "first mask": next(iter(module.data.val_loader(recipe)))["mask"][0],
        "file": module.file_facts(),
        "parameters": [p.shape for p in module.model.parameters()],
        "weight": next(module.model.parameters()).detach().clone(),
        "groups": [(g["weight_decay"], len(g["params"]), g["fused"]) for g in optimizer.param_groups],
        "length": (module.epochs, module.iterations, module.updates_per_epoch, module.batches_per_epoch),
        "inference": module.inference,
        "best by": module.metric_columns,
        "aux": module.model.aux_weight,
        "loss": module.criterion(torch.arange(12.0).view(1, 3, 2, 2) / 4, torch.tensor([[[0, 1], [2, 2]]])),
        "drop path": str(module.model.pyramid.backbone.stages),
        "ema": module.ema and [module.ema.get_decay(step) for step in (None, 2, 9)],
        "preprocessing": module.preprocessing,
        "precision": build_trainer(recipe, epochs=1, batches_per_epoch=1, callbacks=[], folder=Path()).precision,
        "rates": [],
    }
    for update in range(8):
        schedule.step_update(update)
        seen["rates"].append(optimizer.param_groups[0]["lr"])
    return seen


CHANGES: dict[str, Any] = {
    "model": "rmt_tiny",
    "model_args": "cpe=false",
    "classes": "other.txt",
    "zero_is_ignored": True,
    "head": "upernet",
    "head_width": 12,
    "aux_weight": 0.1,
    "metric": "aacc",
    "focal_gamma": 2.0,
    "dice_weight": 1.0,
    "class_weights": True,
    "batch_size": 6,
    "accumulate": 3,
    "iterations": 12,
    "validate_every": 3,
    "lr": 1e-3,
    "lr_base_batch": 4,
    "min_lr": 1e-4,
    "poly_power": 0.5,
    "warmup_iterations": 3,
    "warmup_start": 0.5,
    "weight_decay": 0.1,
    "decay_norms": False,
    "crop_size": 48,
    "long_side": 32,
    "short_side": 40,
    "min_ratio": 1.9,
    "max_ratio": 0.6,
    "max_class_share": 0.4,
    "balanced_crops": 1.0,
    "flip": 0.0,
    "vertical_flip": 1.0,
    "rotation": 45.0,
    "distortion": 0.0,
    "sliding": True,
    "drop_path": 0.5,
    "layer_decay": 0.5,
    "ema_decay": 0.5,
    "ema_warmup": True,
    "precision": "bf16",
    "seed": 1,
}
#: field -> where its effect is tested instead
ELSEWHERE = {
    "frozen_stages": "training/test_layers.py",
    "name": "training/test_run_folder.py",
    "output": "training/test_run_folder.py",
    "data": "below",
    "class_weight_power": "below",
    "choose_inference": "tasks/segment/test_inference.py",
    "holdout": "data/segmentation/test_dataset.py",
    "weights": "below",
    "clip_grad": "training/test_fields.py, by the trainer",
    "minutes": "training/test_plan.py",
    "restart_update": "training/test_extend.py",
    "restart_lr": "training/test_extend.py",
    "early_stopping": "training/test_train.py",
    "checkpoint_minutes": "above",
    "workers": "data/segmentation/test_dataset.py",
    "device": "training/test_fields.py",
    "effective_batch": "training/test_batch.py",
    "devices": "below",
    "nodes": "training/distributed/test_launch.py",
    "on_nan": "training/test_nonfinite.py",
    "grad_checkpointing": "training/test_network.py",
    "compile": "training/test_network.py",
    "profile": "training/test_profile.py",
    "show_batch": "training/test_show_batch.py",
    "strategy": "below",
    "sync_batchnorm": "training/distributed/test_processes.py",
    "freeze_batchnorm": "training/test_network.py",
}


@functools.cache
def base(head: str) -> dict[str, Any]:
    return observe(tiny(head=head))


def test_every_field_is_listed():
    assert set(CHANGES) | set(ELSEWHERE) == {field.name for field in fields(SegmentRecipe)}


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_has_an_effect(field, tmp_path):
    value = CHANGES[field]
    if field == "classes":
        value = str(tmp_path / "other.txt")
        Path(value).write_text("\n".join(CLASSES[:2]) + "\nvoid 2\n")
    head = "upernet" if field == "aux_weight" else "semantic_fpn"  # the other head has no use for it, and says so
    before, changed = base(head), observe(replace(tiny(head=head), **{field: value}))
    assert replace(tiny(head=head), **{field: value}).problems() == []
    same = [key for key, seen in before.items() if _same(seen, changed[key])]
    assert len(same) < len(before), f"{field} changes nothing"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.equal(a, b)
    return str(a) == str(b)


def test_the_rate_warms_up_and_decays_polynomially():
    module = built(replace(tiny(), iterations=1000, validate_every=500, poly_power=0.9))
    optimizer = module.build_optimizer()
    schedule = module.build_schedule(optimizer)
    for update in (0, 1, 2, 500, 999):
        schedule.step_update(update)
        fallen = (2e-3 - 1e-5) * (1 - update / 1000) ** 0.9 + 1e-5
        warm = 0.1 + 0.9 * min(update / 2, 1)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(fallen * warm, rel=1e-9)


def test_norms_decay_or_do_not():
    model = rmt.segmenter("upernet", create_model("rmt_test"), 3, head_args=dict(channels=8))
    names = {id(p): name for name, p in model.named_parameters()}
    plain, spared = build_adamw(model, replace(tiny(), weight_decay=0.01, decay_norms=False), 1e-3).param_groups
    assert (plain["weight_decay"], spared["weight_decay"]) == (0.01, 0.0)
    told = {names[id(p)] for p in spared["params"]}
    assert "pyramid.norms.0.weight" in told
    assert "head.fuse.1.bias" in told
    assert "pyramid.backbone.stages.0.blocks.0.norm1.weight" in told
    assert "head.classifier.bias" not in told  # norms alone are spared
    (everything,) = build_adamw(model, replace(tiny(), weight_decay=0.01, decay_norms=True), 1e-3).param_groups
    assert len(everything["params"]) == len(names)


def test_half_precision_takes_the_optimiser_that_is_not_fused():
    module = built(tiny())
    module.recipe = replace(module.recipe, precision="fp16")
    assert [group["fused"] for group in module.build_optimizer().param_groups] == [False]


def test_starting_weights_are_a_classifier_s_backbone_or_a_whole_segmenter(tmp_path):
    said: list[str] = []
    classifier = create_model("rmt_test")
    rmt.save_checkpoint(classifier, tmp_path / "c.safetensors", classes=("a", "b"))
    module = built(tiny(weights=str(tmp_path / "c.safetensors")), said.append)
    assert torch.equal(module.model.pyramid.backbone.stem[0].weight, classifier.stem[0].weight)
    assert "the head and the pyramid norms are new" in said[-1]
    whole = built(tiny(weights=str(finished())), said.append)
    assert "the whole semantic_fpn" in said[-1]
    trained = rmt.load(finished(), device="cpu").model
    assert torch.equal(whole.model.head.classifier.weight, trained.head.classifier.weight)
    other = make_segments(tmp_path / "other")
    (other / "classes.txt").write_text("field\nred\nblue\n")
    part = built(tiny(data=str(other), weights=str(finished())), said.append)
    assert "the head is new" in said[-1]
    assert torch.equal(part.model.pyramid.norms[0].weight, trained.pyramid.norms[0].weight)


def test_auto_takes_the_network_of_the_weights():
    assert resolved(tiny(model="auto", weights=str(finished())))[0].model == "rmt_test"
    assert resolved(tiny(model="auto", device="cpu"))[0].model == "rmt_pico"
    with pytest.raises(rmt.RMTError, match="--data is missing"):
        resolved(tiny(data=""))


def test_evaluation_by_an_obvious_histogram():
    predictor, calls = rmt.load(finished(), device="cpu"), []
    predictor.model.register_forward_pre_hook(lambda module, args: calls.append(args))
    result = evaluate_checkpoint(finished(), data(), workers=0, predictor=predictor)
    assert calls
    counts = np.zeros((3, 3), dtype=np.int64)
    for number in range(4):
        pixels, mask = picture(100 + number)
        found = predictor.segment(Image.fromarray(pixels)).numpy()
        np.add.at(counts, (mask.ravel(), found.ravel()), 1)
    assert result["confusion"] == counts.tolist()
    assert result["images"] == 4
    hits, union = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
    assert result["miou"] == pytest.approx(100 * np.mean(hits / union), rel=1e-12)
    assert result["foreground_miou"] == pytest.approx(100 * np.mean((hits / union)[1:]), rel=1e-12)
    assert json.loads((finished() / "metrics.json").read_text())["best"]["val"]["miou"] == result["miou"]


def test_what_the_run_held_out_is_evaluated_on(tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.tasks.segment.report.draw_report", lambda *args: None)
    whole = make_segments(tmp_path / "whole", train=10, val=0)
    for side in ("images", "masks"):
        for file in (whole / side / "train").iterdir():
            file.rename(whole / side / file.name)
        for split in ("train", "val"):
            (whole / side / split).rmdir()
    changes = dict(iterations=2, warmup_iterations=1, accumulate=1, holdout=0.3, seed=3)
    recipe = tiny(output=str(tmp_path / "run"), data=str(whole), **changes)
    best = rmt.train(recipe).metrics["best"]["val"]
    result = evaluate_checkpoint(tmp_path / "run", str(whole), device="cpu", workers=0)
    assert (result["images"], result["judged"]["part"]) == (3, "held out")
    assert (result["miou"], result["pixels"]) == (best["miou"], best["pixels"])
    result = evaluate_checkpoint(finished(), str(whole), device="cpu", workers=0)  # not the data of that run
    assert (result["images"], result["judged"]["part"]) == (10, "all")


def test_evaluate_and_predict_on_the_command_line(tmp_path, capsys):
    assert main(["evaluate", str(finished()), "--data", data(), "--workers", "0", "--device", "cpu", "--flip"]) == 0
    said = capsys.readouterr().out
    assert "mIoU" in said
    assert "always background" in said
    assert all(name in said for name in CLASSES)
    photo = Path(data()) / "images" / "val" / "0.png"
    words = ["predict", str(finished()), str(photo), "--output", str(tmp_path / "out"), "--device", "cpu", "--json"]
    assert main([*words, "--inference", "sliding", "--scales", "1", "1.25"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sum(answer["shares"].values()) == pytest.approx(1)
    with Image.open(answer["classes"]) as index:
        assert index.mode == "P"
        assert index.size == (48, 40)
        values = np.asarray(index)
    shares = {CLASSES[k]: float((values == k).mean()) for k in range(3) if (values == k).any()}
    assert answer["shares"] == pytest.approx(shares)
    with Image.open(answer["overlay"]) as overlay:
        assert overlay.height > overlay.width * 40 / 48  # the legend below


def test_pictures_of_one_name_do_not_replace_each_other(tmp_path, capsys, monkeypatch):
    photos = [tmp_path / folder / "x.png" for folder in ("d1", "d2")]
    for number, photo in enumerate(photos):
        photo.parent.mkdir()
        Image.fromarray(picture(number)[0]).save(photo)
    monkeypatch.chdir(tmp_path)
    words = ["predict", str(finished()), *map(str, photos), "--device", "cpu", "--json"]
    assert main(words) == 0
    files = sorted(file.name for file in Path("predictions").iterdir())
    assert files == ["x-2-classes.png", "x-2-overlay.png", "x-classes.png", "x-overlay.png"]
    predictor = rmt.load(finished(), device="cpu")
    for photo, line in zip(photos, capsys.readouterr().out.splitlines(), strict=True):
        with Image.open(json.loads(line)["classes"]) as index:
            assert np.array_equal(np.asarray(index), predictor.segment(photo).numpy())
    assert main(words) == 0  # and again, without a word on where to
    assert sorted(file.name for file in Path("predictions-2").iterdir()) == files
    assert main([*words, "--output", "predictions"]) == 1
    assert "--output predictions is not empty" in capsys.readouterr().err


def test_options_of_other_tasks_are_refused_by_name(capsys):
    photo = str(Path(data()) / "images" / "val" / "0.png")
    assert main(["predict", str(finished()), photo, "--top-k", "3"]) == 1
    assert "--top-k" in capsys.readouterr().err
    assert main(["evaluate", str(finished()), "--data", data(), "--per-class"]) == 1
    assert "--per-class" in capsys.readouterr().err
    assert main(["evaluate", str(finished()), "--data", data(), "--image-size", "64"]) == 1
    assert "--image-size" in capsys.readouterr().err


def test_bad_pairs_are_named_counted_and_passed_over(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("rmt.tasks.segment.report.draw_report", lambda *args: None)
    folder = make_segments(tmp_path / "data")
    Image.new("L", (9, 9)).save(folder / "masks" / "train" / "1.png")
    Image.fromarray(np.full((40, 48), 255, np.uint8)).save(folder / "masks" / "train" / "2.png")
    Image.fromarray(np.full((40, 48), 77, np.uint8)).save(folder / "masks" / "val" / "3.png")
    Image.new("RGB", (1, 1)).save(folder / "images" / "val" / "2.png")
    Image.new("L", (1, 1)).save(folder / "masks" / "val" / "2.png")
    (folder / "images" / "train" / "lonely.png").write_bytes((folder / "images" / "train" / "0.png").read_bytes())
    result = rmt.train(tiny(data=str(folder), output=str(tmp_path / "run"), batch_size=6))
    reasons = "\n".join(f"{name} {reason}" for name, reason in result.metrics["unreadable"]["train and val"].items())
    for part in ("1.png the mask has 9×9", "2.png every pixel of the mask is ignored", "3.png value 77"):
        assert part in reasons
    assert result.metrics["skipped_files"] == {"train": {"image without a mask": 1}, "val": {}}
    assert result.metrics["last"]["raw"]["val"]["pixels"] == 2 * 40 * 48 + 1
    assert "image without a mask" in capsys.readouterr().out


def test_what_cannot_run_is_refused_with_the_option(tmp_path):
    with pytest.raises(rmt.RMTError, match="--validate-every 4 does not divide --iterations 6"):
        rmt.train(tiny(validate_every=4))
    with pytest.raises(rmt.RMTError, match="one update takes 16 images"):
        rmt.train(tiny(batch_size=8, output=str(tmp_path / "run")))
    with pytest.raises(rmt.RMTError, match="--crop-size must be at least 32"):
        rmt.train(tiny(crop_size=16))


def test_preprocessing_follows_the_class_list(tmp_path):
    folder = make_segments(tmp_path, ade=True)
    recipe = tiny(data=str(folder), zero_is_ignored=True)
    assert SegmentData.open(recipe).preprocessing(recipe)["zero_is_ignored"] is True


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_judge_each_image_once(tmp_path, strategy):
    recipe = tiny(
        output=str(tmp_path / "run"), devices="auto", nodes=0, strategy=strategy, batch_size=2, sync_batchnorm=True
    )
    together(tmp_path, recipe_file(tmp_path / "recipe.py", recipe))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["effective_batch"] == 8
    last = metrics["last"]["raw"]
    # judged by two processes after the last part, and by one at the end
    (row,) = (row for row in rows(tmp_path / "run")[-1:] if row["kind"] == "epoch")
    assert last["val"]["miou"] == pytest.approx(float(row["val_miou"]), abs=1e-3)


def test_the_power_softens_the_weights_of_the_classes():
    full, root = (
        built(tiny(class_weights=True, class_weight_power=power)).criterion.class_weights for power in (1, 0.5)
    )
    torch.testing.assert_close(root, full.sqrt())
    assert full.min() < 0.5 * root.min()
