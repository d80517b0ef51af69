"""`--model` with networks of timm's: trained, written, read, evaluated, resumed and planned for like ours."""

import copy

import pytest
import safetensors.torch
import timm
import torch
from helpers import detect_runs, runs
from helpers.resolved import built, resolved
from helpers.segment_data import make_segments
from torch import nn

import rmt
from rmt.commands.cli import main
from rmt.heads.pyramid import build_pyramid
from rmt.model import load_model, read_metadata
from rmt.model.networks import create_network
from rmt.recipes import SegmentRecipe
from rmt.tasks import resume
from rmt.tasks.classify.module import ClassifyModule
from rmt.tasks.classify.token_labelling.module import TokenLabelModule
from rmt.tasks.detect.module import DetectModule
from rmt.training.layers import freeze_stages, layer_scales
from rmt.training.network import build_network

#: name -> arguments that make it small
NETWORKS = {
    "mobilenetv3_small_050": "",
    "resnet10t": "channels=[8,8,16,16],stem_width=8",
    "swin_tiny_patch4_window7_224": "depths=[1,1,1,1],embed_dim=8,num_heads=[1,1,2,2],window_size=2",
}
MOBILENET, RESNET, SWIN = NETWORKS
SMALL_SWIN = dict(depths=(1, 1, 1, 1), embed_dim=8, num_heads=(1, 1, 2, 2), window_size=2)


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    for task in ("classify", "detect", "segment"):
        monkeypatch.setattr(f"rmt.tasks.{task}.report.draw_report", lambda *args: None)

    def make(task, model=RESNET, **changes):
        changes = dict(model=model, model_args=NETWORKS.get(model, ""), output=str(tmp_path / "run")) | changes
        if task == "classify":
            return runs.tiny_recipe(**dict(epochs=1, warmup_epochs=0.0) | changes)
        if task == "detect":
            return detect_runs.tiny_recipe(**dict(epochs=1, lr_steps=()) | changes)
        data = tmp_path / "pairs"
        data = data if data.exists() else make_segments(data, train=4, val=1)
        values = dict(name="s", data=str(data), head_width=8, batch_size=4, crop_size=64, device="cpu", workers=0)
        return SegmentRecipe(**dict(iterations=2, validate_every=2, **values) | changes)

    return make


@pytest.mark.parametrize(
    ("task", "model"),
    [
        *(("classify", MOBILENET), ("classify", SWIN), ("detect", RESNET), ("segment", MOBILENET)),
        pytest.param("detect", SWIN, marks=pytest.mark.slow),
    ],
)
def test_a_run_and_its_files(recipe, task, model, capsys, monkeypatch):
    if (task, model) == ("classify", MOBILENET):
        monkeypatch.undo()  # with its report
    chosen = recipe(task, model, layer_decay=0.5, frozen_stages=1)
    folder = rmt.train(chosen).folder
    assert read_metadata(folder)["model"] == model
    predictor = rmt.load(folder, device="cpu")
    sizes = dict(classify=(32, 32), detect=(64, 96), segment=(71, 90))
    images = torch.rand(1, 3, *sizes[task])
    with torch.no_grad():
        predictor.model(list(images) if task == "detect" else images)
    assert main(["info", str(folder)]) == 0
    assert model in capsys.readouterr().out
    other_size = dict(classify=["--image-size", "64"], detect=["--image-size", "48"], segment=["--short-side", "50"])
    command = ["evaluate", str(folder), "--data", chosen.data, "--device", "cpu", "--workers", "0"]
    assert main([*command, *other_size[task]]) == 0
    resume(folder)
    assert "this run is complete" in capsys.readouterr().out
    with pytest.raises(rmt.RMTError, match="deploy rewrites RMT networks"):
        rmt.deploy(predictor.model)
    again, _ = resolved(recipe(task, "auto", weights=str(folder)))
    assert again.model == model and (model != SWIN or "embed_dim=8" in again.model_args)


class Killed(BaseException):
    """What stands for a kill inside this process."""


@pytest.mark.parametrize(
    ("task", "model", "module"),
    [
        ("classify", RESNET, ClassifyModule),
        pytest.param("detect", SWIN, DetectModule, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_bit_equal(recipe, task, model, module, tmp_path, monkeypatch):
    lengths = dict(epochs=2, checkpoint_minutes=1e-9)
    whole, killed = (str(tmp_path / name) for name in ("whole", "killed"))
    rmt.train(recipe(task, model, output=whole, **lengths))
    steps, original = [], module.training_step

    def fatal(self, *args, **kwargs):
        steps.append(0)
        if len(steps) == 6:
            raise Killed
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(module, "training_step", fatal)
        with pytest.raises(Killed):
            rmt.train(recipe(task, model, output=killed, **lengths))
    resume(killed)
    runs.assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize("task", ["classify", "detect", "segment"])
def test_weights_of_timm_s_files(recipe, task, tmp_path):
    """A classifier of other classes: the backbone is taken, with its statistics."""
    for model, name in ((RESNET, "w.pth"), (SWIN, "w.safetensors")):
        arguments = SMALL_SWIN if model == SWIN else dict(channels=(8, 8, 16, 16), stem_width=8)
        state = timm.create_model(model, num_classes=7, **arguments).state_dict()
        state = {key: value + 1 for key, value in state.items()}  # no initial value
        if name.endswith("pth"):
            torch.save({"state_dict": state}, tmp_path / name)
        else:
            safetensors.torch.save_file(state, tmp_path / name)
        network = built(recipe(task, model, weights=str(tmp_path / name))).model
        network = network.pyramid.backbone if task != "classify" else network
        own = network.state_dict()
        same = [key for key in own if key in state and own[key].shape == state[key].shape]
        assert len(same) > 0.9 * len(own) and all(torch.equal(own[key], state[key]) for key in same)
        with pytest.raises(rmt.RMTError, match="does not fit the network"):
            built(recipe(task, MOBILENET, weights=str(tmp_path / name)))


def test_what_a_task_needs_is_said_in_one_line(recipe):
    unknown, typo = "mobilnetv3_small_050", dict(model_args="act_layr=relu")
    odd = dict(image_size=40, model_args="")
    for task, model, changes, problem in (
        ("detect", "vit_tiny_patch16_224", {}, "vit_tiny_patch16_224 has no pyramid of strides 4, 8, 16, .* it has 16"),
        ("segment", "vit_tiny_patch16_224", {}, "has no pyramid"),
        ("segment", "efficientformer_l1", {}, "efficientformer_l1 does not take images of any size"),
        ("classify", unknown, {}, "no network named 'mobilnetv3_small_050': did you mean mobilenetv3_small_050"),
        ("classify", "rmt_tny", {}, "no network named 'rmt_tny': did you mean rmt_tiny or"),
        ("classify", "swin_tiny", {}, "no network named 'swin_tiny': did you mean swin_tiny_patch4_window7_224 or"),
        ("classify", "resnet10t.nonexistent", {}, "no network named 'resnet10t.nonexistent': did you mean"),
        ("classify", "hf-hub:timm/resnet10t", {}, "no network named"),
        ("classify", RESNET, typo, "resnet10t has no argument 'act_layr': did you mean act_layer"),
        ("classify", "xcit_nano_12_p16_224", odd, "xcit_nano_12_p16_224 do not describe a network: .*divide image dim"),
        ("classify", "mixer_s32_224", dict(model_args="num_blocks=1"), "mixer_s32_224 does not let .*'num_blocks' is"),
        ("classify", "dla46x_c", {}, "dla46x_c has no drop path: leave --drop-path at 0"),
    ):
        with pytest.raises(rmt.RMTError, match=problem) as error:
            built(recipe(task, model, **changes))
        assert "\n" not in str(error.value)


def test_another_image_size_for_a_trained_network(tmp_path):
    """A ViT's positions are resized; a mixer's layers have the shape of its grid."""
    for model, arguments, good, bad in (
        ("vit_tiny_patch16_224", dict(depth=1, embed_dim=24), 100, None),
        ("mixer_s32_224", {}, 64, 96),
        (SWIN, SMALL_SWIN, 100, None),
    ):
        network = create_network(model, arguments, 64)
        network.reset_classifier(3)
        rmt.save_checkpoint(network, tmp_path / model, preprocessing=dict(size=[64, 64]))
        resized = rmt.load(tmp_path / model, device="cpu", image_size=good).model
        assert not resized.training and resized(torch.zeros(1, 3, good, good)).shape == (1, 3)
        if bad:
            with pytest.raises(rmt.RMTError, match=f"^--image-size {bad}: {model} does not take it: [^\n]+$"):
                rmt.load(tmp_path / model, device="cpu", image_size=bad)


def test_frozen_stages_and_statistics():
    """timm counts parts of the stem as a level: the first stage of a ResNet is `layer1`."""
    network = create_network(RESNET, dict(channels=(8, 8, 16, 16), stem_width=8))
    freeze_stages(network, 1)
    frozen = {name.partition(".")[0] for name, p in network.named_parameters() if not p.requires_grad}
    trained = {name.partition(".")[0] for name, p in network.named_parameters() if p.requires_grad}
    assert frozen == {"conv1", "bn1", "layer1"} and trained == {"layer2", "layer3", "layer4", "fc"}
    with pytest.raises(rmt.RMTError, match="--frozen-stages 5: the network has 4 stages"):
        freeze_stages(network, 5)
    pit = create_network("pit_ti_224", dict(base_dims=(8, 8, 8), depth=(1, 1, 1), heads=(1, 1, 1)), 64)
    with pytest.raises(rmt.RMTError, match="the layers of pit_ti_224 follow each other: .*--layer-decay 1"):
        layer_scales(pit, 0.5)
    pyramid = build_pyramid(create_network(RESNET, dict(channels=(8, 8, 16, 16), stem_width=8)), freeze_bn=True).train()
    before = copy.deepcopy(pyramid.state_dict())
    pyramid(torch.rand(2, 3, 64, 64) * 9)
    assert all(torch.equal(value, before[name]) for name, value in pyramid.state_dict().items())
    assert any(isinstance(module, nn.BatchNorm2d) for module in pyramid.modules())


def test_a_file_cannot_ask_for_large_tables(tmp_path, monkeypatch):
    network = create_network(SWIN, SMALL_SWIN, 64)
    rmt.save_checkpoint(network, tmp_path / "swin.safetensors")
    load_model(tmp_path / "swin.safetensors")
    monkeypatch.setattr("rmt.model.rebuild.MAX_BUFFERS", 10)
    with pytest.raises(rmt.RMTError, match="needs tables of more than 10 entries"):
        load_model(tmp_path / "swin.safetensors")


def test_token_labels_are_refused(recipe):
    ran, data = resolved(recipe("classify"))
    network = build_network(ran, ran.image_size)
    network.reset_classifier(len(data.classes))
    with pytest.raises(rmt.RMTError, match="--token-labels needs a network with a head for tokens, which resnet10t is"):
        TokenLabelModule(network, ran, data)
