"""The files of a run folder with any of their values changed: the run goes on, or one line says what is wrong."""

import contextlib
import copy
import csv
import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.runs import finished_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rmt
from rmt.recipes import from_dict
from rmt.tasks import resume
from rmt.training.checkpoints.contents import check_state
from rmt.training.checkpoints.io import AtomicCheckpointIO, read_state
from rmt.training.logging.history import _read_whole_rows
from rmt.training.run_folder import RunFolder

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 1.5, 2**64, -(2**70), float("nan"), float("inf"), "", "x", "\ud800"]),
    st.sampled_from([[], {}, [[]], {"a": 1}]),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=3),
)
NAMES = ("kind", "step", "epoch", "lr", "train_loss", "val_loss", "val_top1", "ema_val_top1", "images_per_s", "seconds")
FUNCTION_SCOPED = [HealthCheck.function_scoped_fixture]


def places(value, path=()):
    """The path of every value inside dicts and lists, tensors included."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    yield path
    for key, entry in inside:
        yield from places(entry, (*path, key))


def changed(content, path, action, value):
    """A copy with one value replaced or removed."""
    if not path:
        return value
    content, key = copy.copy(content), path[0]
    if len(path) > 1:
        content[key] = changed(content[key], path[1:], action, value)
    elif action == "remove":
        del content[key]
    else:
        content[key] = value
    return content


def known_places(state, made=[]):  # noqa: B006 - one strategy for all examples: making it takes longer than a draw
    if not made:
        made.append(st.sampled_from(sorted(places({k: v for k, v in state.items() if k != "state_dict"}), key=str)))
    return made[0]


@pytest.fixture(scope="module")
def state():
    return read_state(finished_run() / "last.ckpt")


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_change_of_a_checkpoint_is_accepted_or_refused_in_one_line(state, data):
    path = data.draw(known_places(state))
    other = changed(state, path, data.draw(st.sampled_from(["remove", "replace"])), data.draw(ANYTHING))
    with contextlib.suppress(rmt.RMTError) as refused:
        check_state(other, Path("last.ckpt"))
    assert refused is None


def edit(**values):
    def apply(state):
        state |= values

    return apply


def no_optimizer(state):
    state["optimizer_states"][0]["state"] = {}


def one_group(state):
    del state["optimizer_states"][0]["param_groups"][0]


def other_weights(state):
    state["state_dict"] = {"model.x": torch.zeros(3)}


def other_shape(state):
    state["state_dict"] = {name: value.reshape(-1)[:1] for name, value in state["state_dict"].items()}


def no_loader(state):
    state["loops"]["fit_loop"]["state_dict"]["combined_loader"].clear()


def no_update(state):
    state["loops"]["fit_loop"]["state_dict"]["combined_loader"][0]["steps"] = 1


def negative_counter(state):
    state["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"] = -5


def other_update(state):
    state["loops"]["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]["total"][
        "completed"
    ] = 3


CHANGES = [
    (edit(global_step=-1), "global_step is -1"),
    (edit(global_step=2**63), "global_step is 9223"),
    (edit(global_step="7"), "global_step is 7"),
    (edit(rmt={}), "no 'recipe'"),
    (edit(rmt=None), "rmt is a NoneType"),
    (edit(state_dict={"a": 1}), "other values than tensors"),
    (edit(loops={}), "no 'fit_loop'"),
    (edit(optimizer_states=[]), "not those of one optimiser"),
    (no_optimizer, "no state after 9 updates"),
    (one_group, "does not fit the run"),
    (other_weights, "does not fit the run"),
    (other_shape, "does not fit the run"),
    (no_loader, "not that of one loader"),
    (no_update, "an epoch of its run has no update"),
    (negative_counter, "ready is -5"),
    (other_update, "global_step is 9, but 3 updates"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message for _, message in CHANGES])
def test_a_checkpoint_of_something_else_is_refused_by_one_line(tmp_path, state, monkeypatch, change, message):
    """Resumed as a user does it, with a checksum that matches."""
    run = Path(shutil.copytree(finished_run(), tmp_path / "run"))
    (run / "metrics.json").unlink()
    (run / "last.previous.ckpt").unlink(missing_ok=True)
    other = copy.deepcopy(state)
    change(other)
    AtomicCheckpointIO().save_checkpoint(other, run / "last.ckpt")
    (run / "last.previous.ckpt").unlink(missing_ok=True)
    with pytest.raises(rmt.RMTError, match=message) as error:
        resume(run)
    assert "\n" not in str(error.value) and "last.ckpt" in str(error.value)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_any_change_of_a_recipe_is_accepted_or_refused_in_one_line(data):
    values = RunFolder.open(finished_run()).read_recipe().as_dict()
    path = data.draw(st.sampled_from(sorted(places(values), key=str)))
    other = changed(values, path, data.draw(st.sampled_from(["remove", "replace"])), data.draw(ANYTHING))
    with contextlib.suppress(ValueError, TypeError):
        from_dict(other).problems()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "[[1, 2]]", "null", "7", '{"task": []}', '{"task": "classify"}', "[" * 100_000),
        *('{"task": "x"}', '{"task": "classify", "name": "x", "epochs": "3"}'),
        '{"task": "classify", "name": "x", "workers": 1000000}',
    ],
)
def test_a_recipe_file_of_anything_is_one_line(tmp_path, text):
    run = Path(shutil.copytree(finished_run(), tmp_path / "run"))
    (run / "recipe.json").write_text(text)
    with pytest.raises(rmt.RMTError) as error:
        resume(run)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500


@settings(max_examples=150, deadline=None, suppress_health_check=FUNCTION_SCOPED)
@given(data=st.data())
def test_any_change_of_the_metrics_is_accepted_or_refused_in_one_line(tmp_path, data):
    text = (finished_run() / "metrics.csv").read_text()
    rows = list(csv.reader(io.StringIO(text)))
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, len(rows[row]) - 1))
    action = data.draw(st.sampled_from(["replace", "remove", "add", "bytes"]))
    word = data.draw(st.sampled_from(["²", "-1", "9" * 400, "nan", "x", "", '"', "\0", "1e999"]) | st.text(max_size=4))
    if action == "remove":
        del rows[row][column]
    elif action == "add":
        rows[row].insert(column, word)
    else:
        rows[row][column] = word
    file = tmp_path / "metrics.csv"
    content = "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass") + b"\n"
    file.write_bytes(content[:40] + b"\xff" + content[40:] if action == "bytes" else content)
    with contextlib.suppress(rmt.RMTError):
        for found in _read_whole_rows(file, NAMES):
            assert int(found["step"]) >= 0


def test_metrics_that_cannot_be_are_named_when_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)
    run = Path(shutil.copytree(finished_run(), tmp_path / "run"))
    (run / "metrics.json").write_text("[1]")
    with pytest.raises(rmt.RMTError, match=r"metrics\.json: not as a run writes it; remove the file"):
        resume(run)
    (run / "metrics.json").unlink()
    with open(run / "metrics.csv", "a") as file:
        file.write("step,²,1\n")
    with pytest.raises(rmt.RMTError, match=r"metrics\.csv: line \d+ is not as a run writes it; remove the file"):
        resume(run)
    (run / "metrics.csv").unlink()
    assert resume(run).metrics["last"]["epoch"] == 3


def test_the_contents_that_runs_write_are_accepted(state):
    assert check_state(state, Path("x")) is state
    for task in ("classify", "detect", "segment"):
        earlier = Path(__file__).parents[2] / "data" / "earlier" / task / "last.ckpt"
        check_state(read_state(earlier), earlier)
    assert json.dumps(from_dict(state["rmt"]["recipe"]).as_dict())
