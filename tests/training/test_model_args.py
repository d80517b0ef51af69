"""`--model-args` for every task: the network of the run, of its files, and of what starts from them."""

import json
from dataclasses import replace

import pytest
import torch
from helpers import detect_runs, runs
from helpers.networks import official_weights
from helpers.resolved import built, resolved
from helpers.segment_data import make_segments

import rmt
from rmt.commands.cli import main
from rmt.model import read_metadata
from rmt.model.rmt import Block
from rmt.recipes import SegmentRecipe
from rmt.tasks import resume

TASKS = ("classify", "detect", "segment")
TEXT = "decay=paper,phases=axial,decomposed=[true,true,true,true],ffn_conv=false"


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """recipe(task, field=value, …): a run of a single evaluation, without pictures."""
    for task in TASKS:
        monkeypatch.setattr(f"rmt.tasks.{task}.report.draw_report", lambda *args: None)

    def make(task, **changes):
        if task == "classify":
            return runs.tiny_recipe(**dict(epochs=1, warmup_epochs=0.0) | changes)
        if task == "detect":
            return detect_runs.tiny_recipe(**dict(epochs=1) | changes)
        data = tmp_path / "pairs"
        data = data if data.exists() else make_segments(data, train=4, val=1)
        values = dict(name="s", data=str(data), head_width=8, batch_size=4, crop_size=32, device="cpu", workers=0)
        return SegmentRecipe(**{"iterations": 2, "validate_every": 2, "model": "rmt_test", **values} | changes)

    return make


def is_meant(network) -> bool:
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    forms = {(block.attn.decay, block.attn.phases, block.attn.decomposed, block.mlp.dwconv) for block in blocks}
    return forms == {("paper", "axial", True, None)}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_and_its_files_have_that_network(recipe, task, tmp_path, capsys):
    folder = tmp_path / "run"
    rmt.train(recipe(task, model_args=TEXT, output=str(folder)))
    assert json.loads((folder / "recipe.json").read_text())["model_args"] == TEXT
    assert read_metadata(folder)["model_args"].items() >= dict(decay="paper", phases="axial", ffn_conv=False).items()
    assert is_meant(rmt.load(folder, device="cpu").model)
    assert main(["info", str(folder)]) == 0
    data = recipe(task).data
    assert main(["evaluate", str(folder), "--data", data, "--device", "cpu", "--workers", "0"]) == 0
    with torch.no_grad():
        model = rmt.load(folder, device="cpu").model
        images = [torch.rand(3, 64, 64)] if task == "detect" else torch.rand(1, 3, 64, 64)
        torch.testing.assert_close(rmt.deploy(model)(images), model(images), rtol=1e-3, atol=1e-4)
    resume(folder)
    assert "this run is complete" in capsys.readouterr().out
    with pytest.raises(
        rmt.RMTError, match="--model-args phases=none: the run has a checkpoint of a network with decay="
    ):
        resume(folder, replace(recipe(task), model_args="phases=none"), accept_changes=True)


@pytest.mark.parametrize("task", TASKS)
def test_weights_of_ours_say_which_network_they_are_of(recipe, task, tmp_path):
    file = tmp_path / "start.safetensors"
    rmt.save_checkpoint(rmt.create_model("rmt_test", decay="paper", lce=False, num_classes=3), file)
    chosen, _ = resolved(recipe(task, model="auto", weights=str(file), model_args="phases=none"))
    assert chosen.model == "rmt_test"
    assert chosen.model_args == 'decay="paper",lce=false,phases="none"'
    assert resolved(chosen)[0] == chosen
    said = []
    network = built(recipe(task, model="auto", weights=str(file), model_args="phases=none"), said.append).model
    block = next(module for module in network.modules() if hasattr(module, "attn"))
    assert (block.attn.decay, block.attn.phases, block.attn.lce) == ("paper", "none", None)
    assert "the weights were trained in a network with phases=flat; this one has phases=none" in said
    with pytest.raises(rmt.RMTError, match=r"start.safetensors does not fit the network: .* missing: .*attn\.lce"):
        built(recipe(task, weights=str(file)))


@pytest.mark.parametrize("task", TASKS)
def test_an_unknown_keyword_ends_the_run_before_the_data_are_read(recipe, task):
    chosen = recipe(task, model_args="phase=none")
    for changes in ({"data": "nowhere"}, {}):
        with pytest.raises(rmt.RMTError, match="--model-args: rmt_test has no argument 'phase': did you mean phases?"):
            built(replace(chosen, **changes))


def test_the_authors_first_release_is_fine_tuned(recipe, tmp_path):
    torch.save({"model": official_weights("first_release_rmt_t")}, tmp_path / "RMT-T.pth")
    chosen = recipe("classify", model="rmt_tiny", weights=str(tmp_path / "RMT-T.pth"))
    with pytest.raises(rmt.RMTError, match="first release: .* train with --model-args (.*)$") as error:
        built(chosen)
    text = str(error.value).rpartition(" ")[2]
    network = built(replace(chosen, model_args=text)).model
    assert network.phases == "none" and network.num_classes == 3
    given = official_weights("first_release_rmt_t")["layers.3.blocks.1.ffn.fc1.weight"]
    assert torch.equal(network.stages[3].blocks[1].mlp.fc1.weight, given)
