"""The ablation recipes are the paper's recipes with one part of the network changed."""

from dataclasses import replace

import pytest
import torch

from rmt.model import count_macs
from rmt.recipes import ABLATIONS, IMAGENET, RECIPES
from rmt.recipes.model_args import parse_model_args
from rmt.recipes.published import PUBLISHED
from rmt.training.network import build_network, resolve_network

TABLE_6 = {"attention": 81.6, "gate": None, "no-lce": 82.1, "no-cpe": 82.2, "no-stem": 82.2}
TABLE_7 = {"full-stage3": 84.1}
TABLE_8 = {"retention-parallel": None, "retention-chunk4": None, "retention-chunk49": 82.1, "retention-recurrent": None}
OURS = {
    *("retention-bidirectional", "window", "neighborhood", "no-ffn-conv", "no-phases", "axial-phases"),
    *("decay-after-softmax", "equation-5", "equal-decay"),
}


def network(name: str):
    with torch.device("meta"):
        return build_network(resolve_network(RECIPES[name]()))


def test_there_is_one_for_each_row():
    assert set(ABLATIONS) == {f"ablation-{row}" for row in {*TABLE_6, *TABLE_7, *TABLE_8, *OURS}}
    for row, top1 in (TABLE_6 | TABLE_7 | TABLE_8).items():
        assert PUBLISHED[f"ablation-{row}"].scores == ({} if top1 is None else {"top1": top1})
        assert top1 is None or f"published {top1} % top-1" in (ABLATIONS[f"ablation-{row}"].__doc__ or "")


@pytest.mark.parametrize("name", ABLATIONS)
def test_only_the_network_differs(name):
    recipe = ABLATIONS[name]()
    base = IMAGENET[f"imagenet-{recipe.model.removeprefix('rmt_')}"]()
    assert replace(recipe, name=base.name, model_args="") == base
    assert set(parse_model_args(recipe.model_args)) <= set(network(name).model_args)


#: name: parameters in millions and multiply-adds in billions, of the table
COSTS = {
    "attention": (14.3, 2.5),
    "gate": (15.6, 2.7),
    "no-lce": (14.2, 2.4),
    "no-cpe": (14.3, 2.5),
    "no-stem": (14.3, 2.2),
}


@pytest.mark.parametrize("row", COSTS)
def test_parameters_and_macs_of_table_6(row):
    """Parameters within 3 %. Of the multiply-adds, which the paper counts in another way, what the change makes out.

    Each of the table's two figures is rounded to 0.1 G, so their difference to 0.1 G.
    """
    parameters, macs = COSTS[row]
    ablation, base = network(f"ablation-{row}"), network("imagenet-tiny")
    assert sum(p.numel() for p in ablation.parameters()) / 1e6 == pytest.approx(parameters, rel=0.03)
    change = (count_macs(ablation, 224, 224) - count_macs(base, 224, 224)) / 1e9
    assert change == pytest.approx(macs - 2.5, abs=0.1)


def test_macs_of_table_7():
    change = count_macs(network("ablation-full-stage3"), 224, 224) - count_macs(network("imagenet-small"), 224, 224)
    assert change / 1e9 == pytest.approx(4.8 - 4.5, abs=0.01)
