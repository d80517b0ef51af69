"""A run is planned before its first step: what is chosen, what is kept, and how right the estimate is."""

import inspect
import json
import os
import re
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.detect_runs import data as coco
from helpers.resolved import resolved
from helpers.runs import assert_same_run, photos
from helpers.segment_data import make_segments
from PIL import Image

import rmt
from rmt.data.images import read_image
from rmt.errors import RMTError
from rmt.recipes import RECIPES, Recipe, finetune, finetune_detect, finetune_segment, from_dict
from rmt.recipes.recipe import AUTO
from rmt.tasks import resume, task_named
from rmt.tasks.classify.build import resolve_schedule
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.plan import candidates
from rmt.tasks.detect.defaults import ObjectStatistics
from rmt.tasks.detect.module import DetectModule
from rmt.tasks.segment.module import SegmentModule
from rmt.training.checkpoints.callback import StateCheckpoint
from rmt.training.evaluator import Evaluator
from rmt.training.machine import Machine
from rmt.training.measure import Timing, _loading_seconds, measure
from rmt.training.plan import Planner
from rmt.training.resolve import _MOST_GPU_WORKERS, resolve_machine

STEP, IMAGE, REPORT, DECODING = 3.0, 0.05, 5.0, 0.25  # seconds on the fake clock


class FakeClock:
    """A clock that only the work of a run moves: steps, evaluated images, the report."""

    def __init__(self) -> None:
        self.now, self.load = 1000.0, 1.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds * self.load


@pytest.fixture(autouse=True)
def no_bfloat16(monkeypatch):
    """All processors plan alike."""
    monkeypatch.setattr("rmt.training.plan.multiplies_bfloat16", lambda: False)


@pytest.fixture
def clock(monkeypatch) -> FakeClock:
    clock, update = FakeClock(), Evaluator.update

    def timed_update(self, network, batch):
        clock.advance(IMAGE * len(batch["index"]))
        return update(self, network, batch)

    for task in ("classify", "detect", "segment"):
        monkeypatch.setattr(f"rmt.tasks.{task}.report.draw_report", lambda *args: clock.advance(REPORT))
    for kind in (ClassifyModule, DetectModule, SegmentModule):

        def timed_loss(self, batch, loss=kind.batch_loss):
            clock.advance(STEP)
            return loss(self, batch)

        monkeypatch.setattr(kind, "batch_loss", timed_loss)
    monkeypatch.setattr(Evaluator, "update", timed_update)
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def planned_seconds(said: str) -> int:
    """The length of the whole run by the printed plan."""
    minutes, seconds = re.search(r"\n  time .* to finish: (\d+):(\d\d) in all\n", said).groups()
    return 60 * int(minutes) + int(seconds)


def recipe_in(run) -> Recipe:
    return from_dict(json.loads((run / "recipe.json").read_text()))


def recipe_of(task: str, folder) -> Recipe:
    """A recipe that leaves open all but the network, and small heads."""
    common = dict(model="rmt_test", device="cpu", workers=0, minutes=1.0, checkpoint_minutes=0.0)
    if task == "classify":
        return replace(finetune(), data=photos(), batch_size=8, **common)
    if task == "detect":
        small = dict(fpn_channels=8, head_convs=1, head_width=8, box_width=16, rois_per_image=16, proposals=32)
        return replace(finetune_detect(), data=str(coco()), short_side=64, long_side=96, **small, **common)
    data = folder if (folder / "images").exists() else make_segments(folder)
    return replace(finetune_segment(), data=str(data), crop_size=32, head_width=8, **common)


@pytest.mark.parametrize("task", ["classify", "detect", pytest.param("segment", marks=pytest.mark.slow)])
def test_the_run_takes_the_minutes(task, tmp_path, clock, capsys):
    recipe = replace(recipe_of(task, tmp_path / "data"), output=str(tmp_path / "run"))
    rmt.train(recipe)
    taken = clock() - 1000
    assert 0.8 * 60 <= taken <= 60
    said = capsys.readouterr().out
    lines = said[said.index("plan for 1 minute on cpu") :].splitlines()
    assert taken == pytest.approx(planned_seconds(said), rel=0.1)
    assert [line.split()[0] for line in lines[:5]] == ["plan", "network", "why", "time", "better"]
    assert f"measured {STEP:.2f} s a step" in lines[2]


def test_decoding_counts_once_where_images_stay_in_memory(tmp_path, clock, monkeypatch, capsys):
    def timed_read(path):
        clock.advance(DECODING)
        return read_image(path)

    monkeypatch.setattr("rmt.data.sources.folders.read_image", timed_read)
    rmt.train(replace(recipe_of("classify", tmp_path), output=str(tmp_path / "run")))
    taken, said = clock() - 1000, capsys.readouterr().out
    assert f"measured {STEP:.2f} s a step" in said  # the first pass decodes for 2 s a step
    assert 0.8 * 60 <= taken <= 60 * 1.02 and taken == pytest.approx(planned_seconds(said), rel=0.1)


def test_steps_are_timed_with_frozen_stages_and_recomputed_blocks_as_the_run_has_them(tmp_path, monkeypatch):
    seen = []

    def measured(module, device, clock):
        seen.append(module.model)
        return real(module, device, clock)

    real = measure
    monkeypatch.setattr("rmt.training.plan.measure", measured)
    resolved(replace(recipe_of("classify", tmp_path), frozen_stages=2, grad_checkpointing=True))
    (network,) = seen
    assert not any(p.requires_grad for p in network.stem.parameters()) and network.head.fc.weight.requires_grad
    assert network.stages[0].grad_checkpointing


def test_the_first_batches_do_not_count_and_evaluation_comes_before_them(tmp_path, clock, monkeypatch):
    """The first two steps build kernels and touch memory, which the larger batches of an evaluation make lasting."""
    happened: list[str] = []
    loss, update = ClassifyModule.batch_loss, Evaluator.update

    def slow_at_first(self, batch):
        happened.append("step")
        clock.advance(-STEP * (0.98 if happened.count("step") > 2 else 0.5))
        return loss(self, batch)

    def evaluated(self, network, batch):
        happened.append("evaluation")
        return update(self, network, batch)

    monkeypatch.setattr(ClassifyModule, "batch_loss", slow_at_first)
    monkeypatch.setattr(Evaluator, "update", evaluated)
    recipe, task = replace(recipe_of("classify", tmp_path), minutes=0.0, batch_size=2), task_named("classify")
    ran, data = resolved(recipe)
    timing = measure(task.build(ran, data, fresh=False, log=print), torch.device("cpu"), clock)
    assert timing.step == pytest.approx(0.02 * STEP) and timing.image == pytest.approx(IMAGE)
    assert happened[0] == "evaluation" and "evaluation" not in happened[happened.index("step") :]


@pytest.mark.parametrize(("batches", "seconds"), [(100, 0.4), (6, 0.0)])
def test_a_step_takes_at_least_the_time_of_its_loading(batches, seconds):
    """Two workers, four of whose batches lie ready after the first, slow steps; then one comes every 0.4 s."""
    clock = FakeClock()

    def loaded():
        for number in range(batches):
            clock.advance(0.0 if number < 4 else 0.4)
            yield {}

    assert _loading_seconds(loaded(), 2, clock) == pytest.approx(seconds)
    assert _loading_seconds(loaded(), 0, clock) == 0.0


def test_a_kernel_that_is_compiled_for_each_size_of_batch_is_not_counted(tmp_path, clock, monkeypatch):
    """As on a GPU, which compiled for three seconds for the last, smaller batch of a thousand images."""
    sizes, update = set(), Evaluator.update

    def compiled(self, network, batch):
        if len(batch["index"]) not in sizes:
            clock.advance(1.0)
        sizes.add(len(batch["index"]))
        return update(self, network, batch)

    monkeypatch.setattr(Evaluator, "update", compiled)
    recipe = replace(recipe_of("classify", tmp_path), minutes=0.0)
    ran, data = resolved(recipe)
    timing = measure(task_named("classify").build(ran, data, fresh=False, log=print), torch.device("cpu"), clock)
    assert timing.image == pytest.approx(IMAGE)


@pytest.mark.parametrize("load", [pytest.param(0.5, marks=pytest.mark.slow), 2.0])
def test_a_machine_under_load_gets_a_shorter_run(load, tmp_path, clock):
    """The plan goes by wall time, so what slows the steps is part of it."""
    clock.load = load
    rmt.train(replace(recipe_of("classify", tmp_path), output=str(tmp_path / "run")))
    assert 0.8 * 60 <= clock() - 1000 <= 60 * 1.02


@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_network_of_timm_is_kept_and_the_rest_is_planned(task, tmp_path, clock):
    given = dict(model="resnet10t", model_args="channels=[8,8,16,16],stem_width=8")
    ran, _ = resolved(replace(recipe_of(task, tmp_path / "data"), **given))
    assert ran.open_fields() == [] and {name: ran.as_dict()[name] for name in given} == given


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_what_is_chosen_stands_in_the_recipe_and_what_is_given_is_kept(task, tmp_path, clock):
    recipe = recipe_of(task, tmp_path / "data")
    ran, _ = resolved(recipe)
    assert ran.open_fields() == [] and ran.minutes == 1
    given = {name: value for name, value in recipe.as_dict().items() if name not in recipe.open_fields()}
    assert {name: ran.as_dict()[name] for name in given} == given
    again, _ = resolved(ran)  # nothing is open: no plan
    assert again == ran
    if task != "segment":
        assert resolved(replace(recipe, epochs=2))[0].epochs == 2
    else:
        assert resolved(replace(recipe, iterations=6))[0].iterations == 6


def test_an_interrupted_planned_run_ends_as_an_uninterrupted_one_and_never_plans_again(tmp_path, clock, monkeypatch):
    recipe = replace(recipe_of("classify", tmp_path), minutes=1.0, ema_decay=0.5)

    class Killed(BaseException):
        pass

    save, calls = StateCheckpoint._save, []

    def fatal(self, trainer):
        save(self, trainer)
        calls.append(0)
        if len(calls) == 2:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(StateCheckpoint, "_save", fatal)
        with pytest.raises(Killed):
            rmt.train(replace(recipe, output=str(tmp_path / "killed")))
    monkeypatch.setattr(Planner, "plan", None)
    whole = rmt.train(replace(recipe_in(tmp_path / "killed"), output=str(tmp_path / "whole"))).folder
    resume(tmp_path / "killed")
    assert_same_run(tmp_path / "killed", whole)


#: seconds of a step of 32 images by rmt_pico at 32², and of an evaluated image; a machine for `plan_with`
FAST, SLOW = Timing(0.01, 0.0005), Timing(30.0, 0.5)


def plan_with(timing: Timing, monkeypatch, step=lambda module: None, **changes):
    """The recipe and the printed lines of a plan, on a machine whose steps take seconds in proportion to `timing`."""

    def measured(module, device, clock):
        name, side = module.recipe.model, module.recipe.image_size
        work = {"rmt_pico": 1.0, "rmt_nano": 3.2, "rmt_tiny": 10.7}[name] * side**2 / 32**2
        return Timing((step(module) or timing.step) * work * module.recipe.batch_size / 32, timing.image * work)

    monkeypatch.setattr("rmt.training.plan.measure", measured)
    lines: list[str] = []
    recipe = replace(finetune(), data=photos(), device="cpu", workers=0, **changes)
    return resolved(recipe, lines.append)[0], lines


def test_the_best_choice_that_sees_enough_images_is_taken(monkeypatch):
    few, _ = plan_with(FAST, monkeypatch, minutes=3.0)
    many, _ = plan_with(FAST, monkeypatch, minutes=60.0)
    assert (few.model, many.model) == ("rmt_nano", "rmt_tiny")
    assert plan_with(FAST, monkeypatch, minutes=60.0, model="rmt_pico")[0].model == "rmt_pico"


@pytest.mark.parametrize(
    ("share", "given", "instructions", "precision"),
    [
        (0.6, "auto", True, "bf16"),
        (0.95, "auto", True, "fp32"),
        (0.6, "auto", False, "fp32"),  # emulation is not even measured
        (0.6, "fp32", True, "fp32"),
        (0.95, "bf16", True, "bf16"),
    ],
)
def test_bfloat16_is_chosen_where_it_is_clearly_faster(share, given, instructions, precision, monkeypatch):
    monkeypatch.setattr("rmt.training.plan.multiplies_bfloat16", lambda: instructions)
    seen = []

    def timed(module):
        seen.append(module.recipe.precision)
        return FAST.step * (share if module.recipe.precision == "bf16" else 1)

    recipe, lines = plan_with(FAST, monkeypatch, step=timed, minutes=3.0, precision=given)
    assert recipe.precision == precision
    assert ("in bfloat16" in lines[-4]) == (given == "auto" and precision == "bf16")
    assert ("bf16" in seen) == ((instructions and given == "auto") or given == "bf16")


def test_a_faster_step_leaves_time_for_a_larger_network(monkeypatch):
    """Of two networks the larger one takes 100 s for the images it needs in float32, in bfloat16 half of that."""
    monkeypatch.setattr("rmt.training.plan.multiplies_bfloat16", lambda: True)

    def timed(module):
        return FAST.step / (4 if module.recipe.precision == "bf16" else 1)

    chosen = [plan_with(FAST, monkeypatch, step=timed, minutes=5.0, precision=p)[0] for p in ("fp32", "auto")]
    assert [recipe.model for recipe in chosen] == ["rmt_nano", "rmt_tiny"]


@pytest.mark.parametrize(("constant", "short_side"), [(0.4, 64), (0.0, 32)])
def test_a_step_that_is_mostly_constant_leaves_time_for_larger_images(constant, short_side, monkeypatch):
    """The smallest images take the same time in both cases; with constant calls the largest take little more."""

    def measured(module, device, clock):
        area = (module.recipe.short_side / 32) ** 2
        return Timing(constant + (0.5 - constant) * area, 0.01)

    monkeypatch.setattr("rmt.training.plan.measure", measured)
    monkeypatch.setattr("rmt.tasks.detect.plan.wanted_images", lambda *args, **options: 300)
    monkeypatch.setattr("rmt.tasks.detect.defaults.short_side", lambda objects, cpu: 64)
    monkeypatch.setattr("rmt.tasks.detect.plan.SMALLEST_PX", 0)
    recipe = replace(recipe_of("detect", None), short_side=AUTO, long_side=AUTO, minutes=2.0)
    assert resolved(recipe)[0].short_side == short_side


def test_images_are_not_reduced_until_the_smallest_objects_vanish(monkeypatch):
    """Steps of minutes: the cheapest choice is taken, which the objects, of 0.1 of the short side, limit."""
    objects = ObjectStatistics(small=0.1, per_image=3, short_side=400, long_side=600)
    monkeypatch.setattr(ObjectStatistics, "of", lambda images: objects)
    monkeypatch.setattr("rmt.training.plan.measure", lambda *args: Timing(100.0, 0.01))
    recipe, lines = replace(recipe_of("detect", None), short_side=AUTO, long_side=AUTO, minutes=2.0), []
    assert resolved(recipe, lines.append)[0].short_side == 128  # of 160, 128 and 96
    said = ", as on smaller images the smallest class's objects would have fewer than 10 px; measured 100.00 s a step"
    assert said in lines[-3]
    large = replace(objects, small=0.3)
    monkeypatch.setattr(ObjectStatistics, "of", lambda images: large)
    assert resolved(recipe, lines.append)[0].short_side == 96 and "smaller images" not in lines[-3]


@pytest.mark.parametrize(("images", "batch", "rate"), [(49_000, 512, 0.015), (9_000, 256, 0.015), (900, 64, 0.012)])
def test_a_gpu_takes_larger_batches_and_small_images_enlarged(images, batch, rate):
    class Images:
        def __len__(self) -> int:
            return images

        def load(self, index: int) -> Image.Image:
            return Image.new("RGB", (32, 32))

    data = SimpleNamespace(train=Images(), stream="yes")
    found = candidates(replace(finetune(), data="photos", device="cuda"), data)
    assert [(c.recipe.model, c.recipe.image_size) for c in found] == [
        ("rmt_micro", 64),
        ("rmt_micro", 32),
        ("rmt_nano", 32),
    ]
    assert {(c.recipe.batch_size, c.recipe.lr, c.recipe.optimizer) for c in found} == {(batch, rate, "muon")}
    assert {c.recipe.batch_size for c in candidates(replace(finetune(), device="cuda", batch_size=10), data)} == {10}
    assert [c.recipe.model for c in candidates(replace(finetune(), device="cpu"), data)] == ["rmt_tiny", "rmt_nano"]
    by_adamw = candidates(replace(finetune(), device="cpu", optimizer="adamw", model="rmt_nano"), data)[0]
    assert (by_adamw.recipe.is_open("lr"), by_adamw.recipe.batch_size) == (True, 32)  # Muon's rate is too high for it


def test_few_images_ask_for_the_weights_in_the_package(monkeypatch):
    _, lines = plan_with(FAST, monkeypatch, minutes=3.0)
    assert (
        "; --weights rmt_micro to start from weights in the package, as the images per class are few (8); " in lines[-1]
    )
    monkeypatch.setattr("rmt.tasks.classify.plan.FEW_FROM_SCRATCH", 5)
    _, lines = plan_with(FAST, monkeypatch, minutes=3.0)
    assert "; --weights FILE to start from trained weights; " in lines[-1]


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_larger_network_is_not_paid_for_with_small_images(task, tmp_path):
    recipe = replace(recipe_of(task, tmp_path / "data"), model=AUTO)
    size = "short_side" if task == "detect" else "crop_size"
    recipe = replace(recipe, **{name: AUTO for name in (size, "long_side")})
    found = [
        choice.recipe for choice in task_named(task).planning.candidates(recipe, task_named(task).open_data(recipe))
    ]
    sizes = {name: [getattr(r, size) for r in found if r.model == name] for name in ("rmt_tiny", "rmt_pico")}
    assert sizes["rmt_tiny"] == [max(sizes["rmt_pico"])] and len(sizes["rmt_pico"]) > 1
    assert [r.model for r in found] == ["rmt_tiny"] + ["rmt_pico"] * len(sizes["rmt_pico"])


def test_too_little_time_shortens_the_epochs_and_says_so(monkeypatch):
    recipe, lines = plan_with(Timing(8.0, 0.01), monkeypatch, minutes=1.0, batch_size=8)
    assert recipe.epochs * recipe.epoch_repeats < 8 and recipe.epoch_repeats < 2
    assert "the cheapest choice, which sees only" in lines[-3]


def test_minutes_that_only_suffice_for_the_evaluation_are_refused(monkeypatch):
    with pytest.raises(RMTError, match=r"--minutes 0.5 is too short: .*; take --minutes \d+ or more") as refused:
        plan_with(Timing(1.0, 5.0), monkeypatch, minutes=0.5)
    assert "\n" not in str(refused.value)


def test_a_given_length_that_takes_longer_is_kept_and_said(monkeypatch):
    recipe, lines = plan_with(SLOW, monkeypatch, minutes=1.0, epochs=50)
    assert recipe.epochs == 50
    assert "longer than the minutes, since its length is given" in lines[-3]


def test_a_run_is_late_by_its_plan_not_by_the_minutes(tmp_path, clock, monkeypatch, capsys):
    class Begun(Exception):
        pass

    def begin(*args, planned_end, **kwargs):
        raise Begun(planned_end)

    def planned_end(recipe):
        with pytest.raises(Begun) as begun:
            rmt.train(replace(recipe, output=str(tmp_path / "run")))
        return begun.value.args[0]

    monkeypatch.setattr("rmt.training.run.Display", begin)
    recipe = replace(recipe_of("classify", tmp_path), epochs=50)
    end = planned_end(recipe)
    assert end - 1000 == pytest.approx(planned_seconds(capsys.readouterr().out), abs=1) and end > 1000 + 5 * 60
    shutil.rmtree(tmp_path / "run")
    assert planned_end(resolved(recipe)[0]) is None  # nothing is open: no plan


@pytest.mark.parametrize(
    ("device", "cores", "devices", "workers"),
    [
        ("cpu", 1, 1, 0),
        ("cpu", 2, 1, 1),
        ("cpu", 64, 1, 2),
        ("cuda", 16, 1, 15),
        ("cuda", 64, 1, 16),
        ("cuda", 16, 4, 3),
    ],
)
def test_images_are_loaded_by_the_cores_that_do_not_train(device, cores, devices, workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    recipe = replace(finetune(), devices="auto")
    assert resolve_machine(recipe, Machine(device, devices, 1)).workers == workers
    assert resolve_machine(replace(recipe, workers=5), Machine(device, devices, 1)).workers == 5
    assert f"training on a CPU and {_MOST_GPU_WORKERS} for each GPU" in inspect.getsource(Recipe)


@pytest.mark.parametrize(("device", "minutes"), [("cpu", 15), ("cuda", 60)])
def test_the_default_is_fifteen_minutes_on_a_cpu_and_sixty_on_a_gpu(device, minutes):
    for make in (finetune, finetune_detect, finetune_segment):
        assert resolve_machine(make(), Machine(device, 1, 1)).minutes == minutes
    for name, make in RECIPES.items():
        if not name.startswith("finetune"):
            assert make().minutes == 0, name


@pytest.mark.parametrize("name", [name for name, make in RECIPES.items() if hasattr(make(), "epochs")])
def test_two_epochs_are_two_epochs(name):
    recipe = replace(RECIPES[name](), epochs=2)
    assert recipe.problems() == []
    if recipe.task == "classify":
        short = resolve_schedule(recipe)
        assert short.problems() == [] and short.warmup_epochs < 2
        assert resolve_schedule(replace(recipe, warmup_epochs=3.0)).warmup_epochs == pytest.approx(0.2)
