"""A recipe is resolved once, in one place, and the resolved one is the only one that a run holds."""

import json
from dataclasses import replace

import pytest
from helpers.detect_runs import tiny_recipe as detect_recipe
from helpers.resolved import resolved
from helpers.runs import photos, tiny_recipe
from helpers.segment_data import make_segments

import rmt
from rmt.model import read_metadata
from rmt.recipes import ClassifyRecipe, DetectRecipe, Recipe, SegmentRecipe, finetune, from_dict
from rmt.tasks import resume
from rmt.training.batch import resolve_ema_decay
from rmt.training.checkpoints.io import read_state
from rmt.training.machine import Machine
from rmt.training.module import TrainingModule
from rmt.training.network import resolve_network
from rmt.training.resolve import resolve_machine, resolve_resumed

OPEN = dict.fromkeys(("device", "devices", "strategy", "precision", "drop_path", "ema_decay"), "auto") | dict(nodes=0)


@pytest.fixture
def open_recipe(tmp_path, monkeypatch):
    """A recipe of each task that leaves every field open that can be, but for the network, which is the tests'."""
    for task in ("classify", "detect", "segment"):
        monkeypatch.setattr(f"rmt.tasks.{task}.report.draw_report", lambda *args: None)
    weights = tmp_path / "weights.safetensors"
    rmt.save_checkpoint(rmt.create_model("rmt_test"), weights, preprocessing={"size": [32, 32]})
    common = dict(OPEN, model="auto", weights=str(weights), output=str(tmp_path / "run"))

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0}, raising=False)  # one core: no worker processes
    monkeypatch.setattr("rmt.training.resolve._MINUTES", {"cpu": 0.0})  # training/test_plan.py has plans
    small = dict(crop_size=32, long_side=64, short_side=64, min_ratio=1.0, max_ratio=1.0, head_width=8)
    small |= dict(lr=1e-3, weight_decay=0.1, warmup_iterations=1)
    monkeypatch.setattr("rmt.tasks.segment.build.segment_defaults", lambda *a, small=small, **k: small)
    monkeypatch.setattr("rmt.tasks.segment.build._ITERATIONS", 2)
    small = dict(short_side=64, long_side=96, train_short_sides=(48, 64), anchor_scale=4.0, lr=0.0, clip_grad=1.0)
    small |= dict(fpn_channels=8, head_convs=1, head_width=8, box_width=16, rois_per_image=16, proposals=32)
    monkeypatch.setattr("rmt.tasks.detect.build.detect_defaults", lambda *a, **k: small | dict(warmup_iterations=2))

    def make(task: str) -> Recipe:
        if task == "classify":
            return tiny_recipe(**ClassifyRecipe.open_values | common, early_stopping=1, accumulate=1)
        if task == "detect":
            return replace(detect_recipe(), **DetectRecipe.open_values | common, early_stopping=1)
        data = make_segments(tmp_path / "segments", train=4)
        return SegmentRecipe(name="s", data=str(data), **SegmentRecipe.open_values | common)

    return make


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_one_recipe_runs_and_nothing_in_it_is_open(tmp_path, open_recipe, monkeypatch, task):
    recipe, checked, modules = open_recipe(task), [], []
    assert set(recipe.open_fields()) == set(recipe.open_values)
    problems, start = type(recipe).problems, TrainingModule.on_train_epoch_start

    def counted(self):
        checked.append(self)
        return problems(self)

    def seen(self):
        modules.append(self)
        start(self)

    monkeypatch.setattr(type(recipe), "problems", counted)
    monkeypatch.setattr(TrainingModule, "on_train_epoch_start", seen)
    folder = rmt.train(recipe).folder
    ran = from_dict(json.loads((folder / "recipe.json").read_text()))
    assert ran.open_fields() == [] and ran.model == "rmt_test" and ran.drop_path == 0
    assert ran.ema_decay == 0.99996 ** (ran.batch_size * ran.accumulate / 512)
    assert modules[-1].recipe == ran
    assert from_dict(read_state(folder / "last.ckpt")["rmt"]["recipe"]) == ran
    assert from_dict(read_metadata(folder / "best.safetensors")["recipe"]) == ran
    assert not any(isinstance(value, Recipe) for value in vars(modules[-1].data).values())
    assert checked == [recipe, ran]  # before anything is done, and once everything is known
    capped = {"classify": (24, 1), "detect": (4, 2), "segment": (4, 1)}[task]
    assert (ran.batch_size, ran.accumulate) == capped


def test_a_line_says_that_the_batch_is_larger_than_the_data():
    lines: list[str] = []
    ran, data = resolved(tiny_recipe(batch_size=500, accumulate=1), lines.append)
    assert ran.batch_size <= len(data.train) < 500
    assert lines == [f"batch of {ran.batch_size} instead of 500: only {len(data.train)} images to train on"]
    lines.clear()
    resolved(tiny_recipe(batch_size=4, accumulate=1), lines.append)
    assert not lines


def test_the_machine_s_part_is_filled_in_where_it_is_open():
    recipe = tiny_recipe(**OPEN)
    found = resolve_machine(recipe, Machine("cuda", 4, 2))
    assert (found.device, found.devices, found.nodes, found.strategy, found.precision) == ("cuda", 4, 2, "ddp", "bf16")
    assert resolve_machine(found, Machine("cpu", 1, 1)) == found
    assert resolve_machine(recipe, Machine("cpu", 1, 1)).precision == "fp32"


def test_a_resumed_recipe_keeps_what_its_run_began_with_but_for_the_devices():
    machine = Machine("cpu", 2, 1)
    began = replace(resolve_machine(finetune(), machine), data=photos(), model="rmt_test", epochs=30, lr=1e-3)
    began = replace(began, image_size=32, layer_decay=0.75, stream="no", precision="bf16")
    resumed = resolve_resumed(replace(finetune(), data=photos()), began, Machine("mps", 1, 1))
    assert resumed == replace(began, device="mps", devices=1)


def test_a_run_of_an_earlier_version_that_left_the_strategy_open_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    rmt.train(tiny_recipe(output=str(tmp_path), epochs=1, warmup_epochs=0.0))
    file = tmp_path / "recipe.json"
    file.write_text(file.read_text().replace('"strategy": "ddp"', '"strategy": "auto"'))
    resume(tmp_path)
    assert "this run is complete" in capsys.readouterr().out


def test_each_task_names_its_open_fields():
    assert set(Recipe.open_values) < set(DetectRecipe.open_values) and "epochs" in DetectRecipe.open_values
    assert {"stream", "image_size", "epochs", "lr", "layer_decay"} < set(ClassifyRecipe.open_values)


@pytest.mark.parametrize(("batch", "decay"), [(512, 0.99996), (2048, 0.9998400096)])
def test_the_averaging_covers_as_many_images_for_every_batch(batch, decay):
    """0.99996^(B/512): 0.99996 at 512 images, and its fourth power at 2,048, on 8 devices or one."""
    for recipe in (dict(batch_size=batch // 8, devices=8), dict(batch_size=batch // 16, accumulate=16, devices=1)):
        filled = resolve_ema_decay(tiny_recipe(**{"accumulate": 1, **recipe}, ema_decay="auto"))
        assert filled.ema_decay == pytest.approx(decay, abs=1e-10)
    assert resolve_ema_decay(tiny_recipe(ema_decay=0.5)).ema_decay == 0.5


def test_drop_path_auto_is_that_of_the_network():
    rates = dict(rmt_tiny=0.1, rmt_small=0.15, rmt_base=0.4, rmt_large=0.5, rmt_pico=0.0, rmt_large_tl=0.5)
    rates |= dict(rmt_deit_small=0.1, rmt_swin_tiny=0.2, rmt_swin_small=0.3)
    for model, rate in rates.items():
        assert resolve_network(tiny_recipe(model=model, drop_path="auto")).drop_path == rate
        assert resolve_network(tiny_recipe(model=model, drop_path=0.25)).drop_path == 0.25
