"""A run that goes on with other data, batch, accumulation or length keeps its place in the schedule, or is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers import detect_runs, segment_runs
from helpers.kills import EACH_UPDATE, Killed, killed_at, run_until_killed
from helpers.resolved import built, resolved
from helpers.runs import finished_run, photos, rows, tiny_recipe
from hypothesis import assume, given
from hypothesis import strategies as st

import rmt
from rmt.tasks import resume
from rmt.tasks.segment.module import SegmentModule
from rmt.training.checkpoints.io import read_state
from rmt.training.module import TrainingModule
from rmt.training.rescale import EpochLength, rescaled_update
from rmt.training.run_folder import RunFolder

LENGTHS = st.builds(lambda u, a: EpochLength(u * a, a), st.integers(1, 500), st.integers(1, 8))


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)


@given(LENGTHS, LENGTHS, st.integers(0, 5000))
def test_the_update_is_as_many_epochs_from_the_start(before, now, update):
    scaled = rescaled_update(update, before, now)
    epochs, inside = divmod(update, before.updates)
    assert abs(scaled / now.updates - update / before.updates) <= 1 / now.updates
    if not inside:
        assert scaled == epochs * now.updates
    assume(now.updates > 1)
    assert scaled // now.updates == epochs and bool(scaled % now.updates) == bool(inside)
    assert rescaled_update(update, before, before) == update


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    run = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        killed_at(patch, "training_step", 9)
        run_until_killed(tiny_recipe(output=str(run), checkpoint_minutes=EACH_UPDATE, weight_decay=0.1))
    assert read_state(run / "last.ckpt")["global_step"] == 4
    return run


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A run that was stopped after update 4 of 9: in the second epoch of three, of three updates each."""
    return shutil.copytree(stopped_once, tmp_path / "run")


def rates_of(recipe) -> list[float]:
    """The learning rate of each update of a whole run."""
    module = built(recipe)
    schedule = module._schedule(optimizer := torch.optim.SGD(module.model.parameters(), module.lr))
    rates = []
    for update in range(module.epochs * module.updates_per_epoch):
        schedule.step_update(update)
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@pytest.fixture
def taken(monkeypatch):
    """The number and learning rate of every update that is taken, and the weight decay."""
    found, step = [], TrainingModule.optimizer_step

    def noted(self, *args, **kwargs):
        group = self.trainer.optimizers[0].param_groups[-1]
        found.append((self.global_step, group["lr"], group["weight_decay"]))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(TrainingModule, "optimizer_step", noted)
    return found


@pytest.mark.parametrize(
    ("changes", "update", "total"),
    [
        (dict(accumulate=1), 8, 18),  # after 1 1/3 epochs, of 6 updates now
        pytest.param(dict(batch_size=2), 8, 18, marks=pytest.mark.slow),
        (dict(batch_size=2, accumulate=4), 4, 9),
        (dict(batch_size=2, accumulate=5), 3, 6),  # nearest to 2 2/3, of 2 updates; two batches are left over
        pytest.param(dict(epochs=5), 4, 15, marks=pytest.mark.slow),
        (dict(accumulate=1, epochs=5), 8, 30),
        (dict(lr=1e-2, weight_decay=0.3), 4, 9),
    ],
    ids=str,
)
def test_a_resumed_run_takes_the_rates_of_the_schedule_from_its_place_on(stopped, taken, changes, update, total):
    recipe = replace(RunFolder.open(stopped).read_recipe(), **changes)
    resume(stopped, recipe, accept_changes=True)
    batches = [(number, lr) for number, lr, _ in taken]
    assert [number for number, _ in batches] == sorted(number for number, _ in batches)
    updates = dict(batches)
    rates = rates_of(recipe)
    assert len(rates) == total and updates == {i: pytest.approx(rates[i]) for i in range(update, total)}
    assert {decay for *_, decay in taken} == {recipe.weight_decay}
    state = read_state(stopped / "last.ckpt")
    assert state["global_step"] == total
    steps = [int(row["step"]) for row in rows(stopped)]
    each = total // recipe.epochs
    assert steps == sorted(steps)
    ends = [(int(row["epoch"]), int(row["step"])) for row in rows(stopped) if row["kind"] == "epoch"]
    assert ends == [(e + 1, (e + 1) * each) for e in range(recipe.epochs)]


@pytest.mark.parametrize(("more", "update", "total"), [(1, 4, 9), (12, 5, 12)])
def test_other_data_keep_the_place_inside_an_epoch_too(stopped, taken, tmp_path, more, update, total):
    """25 images make updates as 24 do; 36 in batches of 4 make 4, and a batch is left over."""
    data = Path(shutil.copytree(photos(), tmp_path / "photos"))
    for number, file in enumerate(sorted((data / "train").glob("*/*.png"))[:more]):
        shutil.copy(file, file.with_name(f"more-{number}.png"))
    recipe = replace(RunFolder.open(stopped).read_recipe(), data=str(data))
    resume(stopped, recipe, accept_changes=True)
    rates = rates_of(recipe)
    assert {number: lr for number, lr, _ in taken} == {i: pytest.approx(rates[i]) for i in range(update, total)}
    assert len(rates) == total


def test_it_is_said_and_a_second_stop_changes_nothing(stopped, monkeypatch, capsys):
    recipe = replace(RunFolder.open(stopped).read_recipe(), accumulate=1)
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 3)
        with pytest.raises(Killed):
            resume(stopped, recipe, accept_changes=True)
    assert "an epoch has 6 updates now, and had 3: update 4 counts as 8, so that" in capsys.readouterr().out
    assert read_state(stopped / "last.ckpt")["global_step"] == 10
    resume(stopped)
    assert [int(row["step"]) for row in rows(stopped) if row["kind"] == "epoch"] == [6, 12, 18]


def test_an_epoch_of_one_update_has_no_place_inside_and_the_run_stays_as_it_was(stopped):
    before = (stopped / "last.ckpt").read_bytes(), (stopped / "recipe.json").read_bytes()
    recipe = replace(RunFolder.open(stopped).read_recipe(), batch_size=24, accumulate=1)
    with pytest.raises(rmt.RMTError, match="inside an epoch.*lower --batch-size") as error:
        resume(stopped, recipe, accept_changes=True)
    assert "\n" not in str(error.value)
    assert ((stopped / "last.ckpt").read_bytes(), (stopped / "recipe.json").read_bytes()) == before


def test_fewer_epochs_than_are_done_are_refused(tmp_path):
    run = shutil.copytree(finished_run(), tmp_path / "run")
    recipe = replace(RunFolder.open(run).read_recipe(), epochs=2)
    with pytest.raises(rmt.RMTError, match="--epochs 2: the run has done 3 already"):
        resume(run, recipe, accept_changes=True)


def test_iterations_keep_their_place_and_evaluations_theirs(tmp_path, monkeypatch, taken):
    monkeypatch.setattr("rmt.tasks.segment.report.draw_report", lambda *args: None)
    recipe = segment_runs.tiny(output=str(tmp_path), checkpoint_minutes=EACH_UPDATE)
    with monkeypatch.context() as patch:
        killed_at(patch, "training_step", 7, owner=SegmentModule)
        run_until_killed(recipe)
    assert read_state(tmp_path / "last.ckpt")["global_step"] == 3
    recipe = RunFolder.open(tmp_path).read_recipe()
    with pytest.raises(rmt.RMTError, match="--validate-every 3: the run was evaluated every 2"):
        resume(tmp_path, replace(recipe, validate_every=3), accept_changes=True)
    taken.clear()
    other = replace(recipe, accumulate=1, iterations=8)
    resume(tmp_path, other, accept_changes=True)
    rates = rates_of(other)
    assert {n: lr for n, lr, _ in taken} == {i: pytest.approx(rates[i]) for i in range(3, 8)}


@pytest.mark.parametrize(
    ("recipe", "given", "length"),
    [
        (lambda: tiny_recipe(epochs=3, warmup_epochs=5.0), "--warmup-epochs 5", 0.3),
        (lambda: detect_runs.tiny_recipe(warmup_iterations=500), "--warmup-iterations 500", 0),
        (lambda: segment_runs.tiny(warmup_iterations=6), "--warmup-iterations 6", 0),
    ],
    ids=["classify", "detect", "segment"],
)
def test_a_warm_up_longer_than_the_run_is_shortened_with_a_word(recipe, given, length):
    lines: list[str] = []
    found, _ = resolved(recipe(), lines.append)
    assert getattr(found, given.split()[0][2:].replace("-", "_")) == pytest.approx(length)
    assert f"{given} is longer than the run: a warm-up of {length:g} is taken" in lines
