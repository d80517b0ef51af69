"""`--weights`, alike for all tasks: files known by their content, whole models where they match, else backbones."""

from dataclasses import replace

import pytest
import safetensors.torch
import torch
from helpers import detect_runs, runs
from helpers.resolved import built, resolved
from helpers.segment_data import make_segments

import rmt
from rmt.heads import save_model
from rmt.model import create_model, describe_weights
from rmt.recipes import SegmentRecipe
from rmt.recipes.recipe import option
from rmt.tasks import task_named
from rmt.tasks.classify.token_labelling.teacher import load_teacher
from rmt.training.network import inherit_options

TASKS = ("classify", "detect", "segment")
FILES = ("ours.safetensors", "ours.bin", "plain.safetensors", "plain.bin", "plain.pth")


@pytest.fixture
def recipe(tmp_path):
    """recipe(task, field=value, …): a small recipe of each task."""

    def make(task, **changes):
        if task == "classify":
            return runs.tiny_recipe(**changes)
        if task == "detect":
            return detect_runs.tiny_recipe(**changes)
        data = tmp_path / "pairs"
        data = data if data.exists() else make_segments(data, train=4, val=1)
        values = dict(name="s", data=str(data), head_width=8, batch_size=4, crop_size=32, device="cpu", workers=0)
        return SegmentRecipe(**{"iterations": 2, "validate_every": 2, "model": "rmt_test", **values} | changes)

    return make


def prepared(recipe):
    """The network, what was said of its weights, and the classes of the data."""
    said: list[str] = []
    module = built(recipe, said.append)
    return module.model, [line for line in said if ".json: " not in line], module.data.classes


def backbone(model):
    return model.pyramid.backbone if hasattr(model, "pyramid") else model


@pytest.fixture
def files(tmp_path):
    """One classifier in every format, under names that lie."""
    torch.manual_seed(3)
    model = create_model("rmt_test", num_classes=3)
    state = model.state_dict()
    for name in FILES:
        if name.startswith("ours"):
            rmt.save_checkpoint(model, tmp_path / name, classes=("blue", "green", "red"))
        elif name == "plain.bin":
            torch.save({"state_dict": {f"module.{key}": value for key, value in state.items()}}, tmp_path / name)
        else:
            safetensors.torch.save_file(state, tmp_path / name, metadata={"format": "pt"})
    torch.save(state, tmp_path / "plain.pth")
    return model, tmp_path


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("task", TASKS)
def test_a_file_is_what_it_holds(files, recipe, task, name):
    given, folder = files
    chosen = recipe(task, weights=str(folder / name), model="auto")
    if name.startswith("ours"):
        chosen, _ = resolved(chosen)
        assert chosen.model == "rmt_test"
    else:
        with pytest.raises(rmt.RMTError, match=f"{name} does not say which network it is for: name it") as error:
            resolved(chosen)
        assert "\n" not in str(error.value)
        chosen = recipe(task, weights=str(folder / name), model="rmt_test")
    model, said, _ = prepared(chosen)
    state = given.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in backbone(model).state_dict().items())
    assert said == [] if task == "classify" else "starting from the backbone in" in said[-1] and len(said) == 1


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_whole_model_is_taken_where_head_and_classes_match(recipe, tmp_path, task):
    torch.manual_seed(1)
    first, _, classes = prepared(recipe(task))
    for name, known in (("same", classes), ("unnamed", ()), ("others", [f"not {name}" for name in classes])):
        save_model(first, tmp_path / name, classes=known)
        torch.manual_seed(2)
        model, said, _ = prepared(recipe(task, weights=str(tmp_path / name)))
        equal = {key: torch.equal(value, first.state_dict()[key]) for key, value in model.state_dict().items()}
        assert all(same for key, same in equal.items() if "pyramid" in key)
        assert all(equal.values()) == (name != "others")
        line = "starting from the backbone in" if name == "others" else f"starting from the whole {first.head_name} in"
        assert len(said) == 1 and line in said[0] and said[0].endswith("; the head is new") == (name == "others")


def test_a_narrower_head_leaves_the_backbone(recipe, tmp_path):
    first, _, _ = prepared(recipe("detect", box_width=12))
    save_model(first, tmp_path / "narrow")
    model, said, _ = prepared(recipe("detect", weights=str(tmp_path / "narrow")))
    assert "starting from the backbone in" in said[0] and said[0].endswith("; the head is new")
    assert torch.equal(model.pyramid.norms[0].weight, first.pyramid.norms[0].weight)


@pytest.mark.parametrize("task", ["detect", "segment"])
def test_a_classifier_starts_from_the_backbone_of_any(recipe, tmp_path, task):
    first, _, _ = prepared(recipe(task))
    save_model(first, tmp_path / "w.safetensors", classes=("a", "b"), preprocessing=dict(size=[800, 1333]))
    starting = recipe("classify", weights=str(tmp_path / "w.safetensors"), image_size=0)
    assert resolved(starting)[0].image_size == 224  # not the detector's
    model, said, _ = prepared(starting)
    assert torch.equal(model.stages[2].blocks[0].attn.q.weight, backbone(first).stages[2].blocks[0].attn.q.weight)
    assert said == ["new classifier for 3 classes (the weights file has other classes or none)"]


def test_a_teacher_of_ours_by_any_name(files):
    given, folder = files
    teacher = load_teacher("", str(folder / "ours.bin"))
    assert teacher.name == "rmt_test" and teacher.classes == ("blue", "green", "red")
    assert torch.equal(teacher.model.head.fc.weight, given.head.fc.weight)


def test_what_a_file_says_of_itself(files, tmp_path):
    assert describe_weights(tmp_path / "ours.bin")["model"] == "rmt_test"
    assert describe_weights(tmp_path / "plain.safetensors") is describe_weights(tmp_path / "plain.bin") is None
    (tmp_path / "cut").write_bytes((tmp_path / "ours.bin").read_bytes()[:2000])
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "odd", metadata={"rmt": "[1]"})
    for name, words in (("none", "no checkpoint at"), ("cut", "cut is not a readable"), ("odd", "not a JSON object")):
        with pytest.raises(rmt.RMTError, match=words):
            describe_weights(tmp_path / name)


@pytest.mark.parametrize("task", TASKS)
def test_only_a_new_run_needs_the_file(recipe, tmp_path, task):
    file = tmp_path / "weights.safetensors"
    rmt.save_checkpoint(create_model("rmt_test"), file, preprocessing={"size": [32, 32]})
    began, data = resolved(recipe(task, weights=str(file)))
    file.unlink()
    assert resolved(began)[0] == began
    task_named(task).build(began, data, fresh=False, log=lambda line: None)
    with pytest.raises(rmt.RMTError, match="weights.safetensors"):
        rmt.train(replace(began, data="nowhere", output=str(tmp_path / "run")))


#: A run of each task whose sizes are none that the data would give, as far as `rmt_test` and the data allow.
RUNS = {
    "classify": dict(image_size=48),
    "detect": dict(
        short_side=96, long_side=160, train_short_sides=(64, 96), anchor_scale=2.0, proposals=48, masks=False
    ),
    "segment": dict(crop_size=64, short_side=64, long_side=96, head_width=16),
}


@pytest.mark.parametrize("task", TASKS)
def test_sizes_that_are_open_are_those_of_the_run_that_the_weights_come_from(task, recipe, monkeypatch):
    head = {"head_convs": 4, "head_width": 256} if task == "detect" else {}  # without masks they have no effect
    run, said = recipe(task, **RUNS[task] | head), []
    monkeypatch.setattr("rmt.training.network.describe_weights", lambda weights: {"recipe": run.as_dict()})
    new = replace(run, weights="RUN", **{name: run.open_values[name] for name in run.inherited})
    found = inherit_options(new, said.append)
    assert {name: getattr(found, name) for name in RUNS[task]} == RUNS[task]
    assert found == replace(run, weights="RUN")
    assert len(said) == 1 and said[0].startswith("as in RUN: ")
    assert all(
        f"--{option(name)} " in "--" + said[0].replace(", ", ", --").replace(": ", ": --") for name in RUNS[task]
    )


@pytest.mark.parametrize("task", TASKS)
def test_a_given_size_is_kept_and_another_kind_of_run_gives_none(task, recipe, monkeypatch):
    run, name = recipe(task, **RUNS[task]), next(iter(RUNS[task]))
    monkeypatch.setattr("rmt.training.network.describe_weights", lambda weights: {"recipe": run.as_dict()})
    new = replace(run, weights="RUN", **{name: run.open_values[name] for name in run.inherited})
    assert getattr(inherit_options(replace(new, **{name: 32}), print), name) == 32
    other = recipe("segment" if task == "classify" else "classify", weights="RUN")
    assert inherit_options(other, pytest.fail) == other
    if task != "classify":
        others = {"detect": "retinanet", "segment": "upernet"}
        other = replace(new, head=others[task])
        assert inherit_options(other, pytest.fail) == other
    for damaged in (None, {}, {"recipe": None}, {"recipe": run.as_dict() | {"of_another_version": 1}}):
        monkeypatch.setattr("rmt.training.network.describe_weights", lambda weights, own=damaged: own)
        assert inherit_options(new, pytest.fail) == new
