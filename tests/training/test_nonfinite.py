"""A loss that is not finite ends the run with all it takes to find out why, or is skipped and counted."""

import functools
import json
import math

import pytest
import torch
from helpers.runs import tiny_recipe, weights
from helpers.together import train_together, without_report
from torch import nn

import rmt
from rmt.tasks.classify.module import ClassifyModule
from rmt.terminal import plural
from rmt.training.nonfinite import first_nonfinite

LAYER = "stages.1.blocks.0.mlp.fc1"


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    monkeypatch.setattr("rmt.tasks.classify.report.draw_report", lambda *args: None)


def poison(batches, rank: int = 0, patch=setattr) -> list:
    """Has LAYER give out infinity in these training steps of a process, and notes the weights after each update."""
    step, update, seen, count = ClassifyModule.training_step, ClassifyModule.optimizer_step, [], [0]

    def training_step(self, batch, batch_idx):
        number, count[0] = count[0], count[0] + 1
        bad = number in batches and self.global_rank == rank
        spoil = self.model.get_submodule(LAYER).register_forward_hook(lambda *a: a[2] * math.inf) if bad else None
        try:
            return step(self, batch, batch_idx)
        finally:
            if spoil is not None:
                spoil.remove()

    def optimizer_step(self, *args, **kwargs):
        update(self, *args, **kwargs)
        both = (self.model, self.ema.module)
        seen.append([{k: v.clone() for k, v in network.state_dict().items()} for network in both])

    patch(ClassifyModule, "training_step", training_step)
    patch(ClassifyModule, "optimizer_step", optimizer_step)
    return seen


def same(a, b) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_it_stops_with_step_rate_images_and_the_first_layer(tmp_path, monkeypatch):
    poison({3}, patch=monkeypatch.setattr)
    with pytest.raises(rmt.RMTError) as stopped:
        rmt.train(tiny_recipe(output=str(tmp_path)))
    line = str(stopped.value)
    assert f"the loss became nan at epoch 1, step 1 (learning rate 0.00067), first in {LAYER} (Linear), for " in line
    assert "/train/" in line and "and 1 more" in line and "--on-nan skip" in line and "\n" not in line
    told = json.loads((tmp_path / "nonfinite.json").read_text())
    assert (told["layer"], told["step"], len(told["images"])) == (f"{LAYER} (Linear)", 1, 4)


def test_weights_that_ran_away_are_named_with_their_layer(tmp_path):
    recipe = tiny_recipe(output=str(tmp_path), lr=1e30, warmup_epochs=0.0, label_smoothing=0.0, clip_grad=0.0)
    with pytest.raises(rmt.RMTError, match=r"the loss became (nan|inf) at epoch 1, step \d.*first in stem.*--lr"):
        rmt.train(recipe)


@pytest.mark.parametrize(("accumulate", "bad"), [(1, {4}), (2, {4}), (2, {4, 5})])
def test_skipping_leaves_the_weights_as_if_the_batch_were_not_there(tmp_path, monkeypatch, capsys, accumulate, bad):
    seen = poison(bad, patch=monkeypatch.setattr)
    recipe = tiny_recipe(output=str(tmp_path), on_nan="skip", accumulate=accumulate, drop_path=0.0)
    result = rmt.train(recipe)
    unchanged = [n for n in range(1, len(seen)) if all(same(a, b) for a, b in zip(seen[n], seen[n - 1], strict=True))]
    whole_update = accumulate == len(bad)
    if whole_update:  # not even BatchNorm's statistics, nor the average
        assert unchanged == [min(bad) // accumulate]
    else:
        assert unchanged == []
    assert all(torch.isfinite(value).all() for value in weights(result.folder).values())
    assert result.metrics["skipped_batches"] == len(bad)
    said = capsys.readouterr().out
    assert f"skipped batch {len(bad)}: the loss became nan at epoch 1" in said
    assert f"{plural(len(bad), 'batch')} skipped for a loss that was not finite" in said


def test_skipping_ends_where_no_batch_is_any_good(tmp_path, monkeypatch):
    poison(set(range(1, 100)), patch=monkeypatch.setattr)
    with pytest.raises(rmt.RMTError, match="20 batches in a row were skipped; the loss became nan at epoch 4"):
        rmt.train(tiny_recipe(output=str(tmp_path), on_nan="skip", epochs=9))


def poison_one_process(rank: int) -> None:
    without_report()
    poison({4, 5}, rank)


def test_all_processes_skip_what_one_of_them_met(tmp_path):
    folder = train_together(tmp_path, on_nan="skip", batch_size=2, before=functools.partial(poison_one_process, 1))
    assert json.loads((folder / "metrics.json").read_text())["skipped_batches"] == 2
    assert all(torch.isfinite(value).all() for value in weights(folder).values())
    told = json.loads((folder / "nonfinite.json").read_text())
    assert told["layer"].startswith(LAYER) and len(told["images"]) == 2


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return {"sum": [self.first(x) + self.second(x)]}


def test_the_first_layer_in_the_order_of_the_computation():
    model, x = Branches(), torch.ones(2, 3)

    def loss():
        return model(x)["sum"][0].sum()

    assert first_nonfinite(model, loss) == ""
    assert first_nonfinite(model, lambda: loss() * math.nan) == "the loss itself, whose inputs are finite"
    model.second.weight.data[0, 0] = math.nan
    assert first_nonfinite(model, loss) == "second (Linear), whose weight had become not finite before"
    model.second.weight.data.fill_(3e38), model.first.weight.data.fill_(3e38)
    x /= 2.5
    assert first_nonfinite(model, loss) in ("first (Linear)", "the network (Branches)")
