"""Model files, the authors' files, and what does not fit."""

import os

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from helpers.networks import FIRST_RELEASE, PARITY, TINY, official, official_weights, pico
from helpers.parity_fill import image

import rmt
from rmt.heads import load_model as load_with_head
from rmt.heads import save_model
from rmt.model import RMT, create_model, load_checkpoint, load_model, load_official, read_metadata
from rmt.model.rebuild import rebuild_from_weights
from rmt.model.state_dicts import check_fit, read_state_dict, unwrap

RMTError = rmt.RMTError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    rmt.save_checkpoint(pico(), path, classes=list("abcde"))
    return path


def test_round_trip(file):
    model, metadata = load_model(file)
    for name, value in pico().state_dict().items():
        assert torch.equal(model.state_dict()[name], value)
    assert not model.training and all(p.requires_grad and p.device.type == "cpu" for p in model.parameters())
    assert metadata == read_metadata(file)
    assert {k: metadata[k] for k in ("format", "task", "model", "head", "classes")} == dict(
        format=1, task="classify", model="rmt_pico", head=None, classes=list("abcde")
    )
    assert metadata["preprocessing"] == dict(
        size=[32, 32], mean=list(timm.data.IMAGENET_DEFAULT_MEAN), std=list(timm.data.IMAGENET_DEFAULT_STD),
        interpolation="bicubic", crop_pct=1.0,
    )  # fmt: skip


def test_file_alone_rebuilds_options(tmp_path):
    model = pico(in_chans=1, decay="paper", drop_path_rate=0.2, cpe=False, global_pool="max").eval()
    model.reset_classifier(3, "avg")
    rmt.save_checkpoint(model, tmp_path / "m.safetensors", metrics={"top1": 0.5}, recipe={"epochs": 3})
    again, metadata = load_model(tmp_path / "m.safetensors")
    x = torch.randn(2, 1, 48, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(x), model(x))
    assert again.stages[-1].blocks[-1].drop_path.drop_prob == pytest.approx(0.2)
    assert metadata["metrics"] == {"top1": 0.5} and metadata["recipe"] == {"epochs": 3}


@pytest.mark.parametrize("wrapping", ["model", "state_dict", "model_ema", "state_dict_ema", None])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_the_authors_files(tmp_path, wrapping, prefix):
    source = pico()
    state = {prefix + k: v for k, v in official(source).items()}
    state[prefix + "layers.0.Relpos.angle"] = torch.zeros(4)  # a buffer that is computed, not loaded
    if prefix == "backbone.":
        state = {
            k: v for k, v in state.items() if not k.startswith(("backbone.proj", "backbone.norm", "backbone.head"))
        }
        state |= {"backbone.extra_norms.0.weight": torch.ones(32), "neck.convs.0.weight": torch.ones(3)}
    path = tmp_path / "official.pth"
    torch.save({wrapping: state, "epoch": 3} if wrapping else state, path)
    target = create_model("rmt_pico", num_classes=5)
    if prefix == "backbone.":
        with pytest.raises(RMTError, match=r"missing: head\.proj"):
            load_official(target, path)
        assert "head.fc.weight" in load_official(target, path, new_head=True)
    else:
        assert load_official(target, path) == []
    for name, value in source.state_dict().items():
        if not name.startswith("head."):
            assert torch.equal(target.state_dict()[name], value), name


WRAPPERS = ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.", "model."]
WRAPPERS += ["model._orig_mod.", "_fsdp_wrapped_module.", "_forward_module.model.", "student.encoder."]


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        *((RMT.state_dict, prefix) for prefix in WRAPPERS),
        *((official, prefix) for prefix in WRAPPERS[-2:]),
        *(pytest.param(official, prefix, marks=pytest.mark.slow) for prefix in WRAPPERS[:-2]),
    ],
)
def test_wrappers_names_make_no_difference_by_any_way_in(tmp_path, prefix, names):
    """One classifier of 5 classes, read alike by each function that loads weights: none leaves the head random."""
    source = create_model("rmt_test", num_classes=5)
    state = {prefix + name: value for name, value in names(source).items()}
    path = tmp_path / "wrapped.pth"
    torch.save({"state_dict": state}, path)
    overlay = dict(file=str(path))
    direct, checkpoint = create_model("rmt_test", num_classes=5), create_model("rmt_test", num_classes=5)
    load_official(direct, state)
    load_checkpoint(checkpoint, path, new_head=True)
    loaded = {
        "dict": direct,
        "file": checkpoint,
        "timm": timm.create_model("rmt_test", pretrained=True, pretrained_cfg_overlay=overlay),
        "timm, dict": timm.create_model("rmt_test", pretrained=True, pretrained_cfg_overlay=dict(state_dict=state)),
        "convert": rebuild_from_weights(read_state_dict(path), path)[0],
    }
    for way, model in loaded.items():
        for name, value in source.state_dict().items():
            assert torch.equal(model.state_dict()[name], value), (way, name)
    assert "state_dict" not in loaded["timm"].pretrained_cfg
    features = timm.create_model("rmt_test", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    pyramid = rmt.heads.build_pyramid("rmt_test")
    pyramid.load_backbone(path)
    for backbone in (features.model, pyramid.backbone):
        assert torch.equal(backbone.stages[3].blocks[0].attn.q.weight, source.stages[3].blocks[0].attn.q.weight)


def test_a_file_of_two_networks_is_refused():
    state = {
        f"{holder}.{name}": value for holder in ("student", "teacher") for name, value in pico().state_dict().items()
    }
    with pytest.raises(RMTError, match=r"contains several networks \(student\., teacher\.\): save the one"):
        unwrap(state)


def test_names_of_any_length_are_cut_in_messages():
    own = {"a": torch.zeros(1)}
    with pytest.raises(RMTError, match=r"2 unexpected: \\x1bx{155}…, y$"):
        check_fit(own, own | {"\x1b" + "x" * 10**6: torch.zeros(1), "y": torch.zeros(1)}, "the file")


def test_parts_inside_and_beside_the_network_are_told_apart(tmp_path):
    source = pico()
    inside = {name.replace("stages.1.", "stages.1._orig_mod."): v for name, v in source.state_dict().items()}
    averaged = {"n_averaged": torch.tensor(3), **{f"module.{name}": v for name, v in source.state_dict().items()}}
    lightning = {f"model.{name}": v for name, v in source.state_dict().items()} | {"loss.weight": torch.ones(5)}
    for state in (inside, averaged, lightning):
        assert load_official(model := pico(), state) == []
        assert torch.equal(model.head.fc.bias, source.head.fc.bias)
    with pytest.raises(RMTError, match="two tensors of one name"):
        load_official(pico(), source.state_dict() | {f"module.{name}": v for name, v in source.state_dict().items()})


@pytest.mark.parametrize("prefix", ["ema.", "ema.module.", "model_ema.", "ema.ema_model."])
def test_the_average_of_a_lightning_checkpoint_is_taken_or_the_weights_beside_it(tmp_path, prefix):
    """As timm's overlay takes it, too; counters of the average lie beside its weights."""
    source, other = pico(), pico()
    torch.nn.init.ones_(other.head.fc.bias)
    state = {f"{prefix}{name}": value for name, value in source.state_dict().items()} | {"ema.step": torch.tensor(3)}
    both = {f"model.{name}": value for name, value in other.state_dict().items()} | state
    for content in (state, both):
        torch.save({"state_dict": content}, tmp_path / "last.ckpt")
        model = pico()
        assert load_official(model, tmp_path / "last.ckpt") == []
        overlay = dict(file=str(tmp_path / "last.ckpt"))
        for made in (model, timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay)):
            assert torch.equal(made.head.fc.bias, source.head.fc.bias)
    load_official(model := pico(), both, use_ema=False)
    assert torch.equal(model.head.fc.bias, other.head.fc.bias)
    callback = {"state_dict": source.state_dict(), "current_model_state": other.state_dict(), "averaging_state": {}}
    for use_ema, expected in ((True, source), (False, other)):
        load_official(model := pico(), callback, use_ema=use_ema)
        assert torch.equal(model.head.fc.bias, expected.head.fc.bias)


@pytest.mark.parametrize("lost", ["head.fc.weight", "head.fc.bias", "head.proj.weight"])
def test_a_head_that_is_not_whole_is_refused(tmp_path, lost):
    state = {name: value for name, value in pico().state_dict().items() if name != lost}
    safetensors.torch.save_file(state, tmp_path / "part.safetensors")
    overlay = dict(file=str(tmp_path / "part.safetensors"))
    with pytest.raises(RMTError, match=r"part\.safetensors (has no classifier|does not fit)"):
        timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5)


def test_averaged_weights_are_preferred_and_can_be_declined(tmp_path):
    raw, averaged = official(pico()), {k: v + 1 for k, v in official(pico()).items()}
    torch.save({"model": raw, "model_ema": averaged}, tmp_path / "both.pth")
    model = pico()
    load_official(model, tmp_path / "both.pth")
    assert torch.equal(model.head.fc.bias, averaged["head.bias"])
    load_official(model, tmp_path / "both.pth", use_ema=False)
    assert torch.equal(model.head.fc.bias, raw["head.bias"])


def test_every_official_name_has_a_place():
    for case, extra in (("tiny", {}), ("tiny_token_label", dict(aux_head=True)), ("first_release_tiny", FIRST_RELEASE)):
        model = RMT(**TINY | extra)
        assert load_official(model, official_weights(case)) == []
        assert model.stages[2].blocks[0].ls1.gamma.shape == (64,)


def test_the_first_release_is_known_by_its_names(tmp_path):
    """timm's overlay builds its network; `load_official` says which network to build."""
    torch.save({"model": official_weights("first_release_rmt_t")}, tmp_path / "RMT-T.pth")
    answers = np.load(PARITY / "first_release_rmt_t.npz")
    overlay = dict(file=str(tmp_path / "RMT-T.pth"))
    model = timm.create_model("rmt_tiny", pretrained=True, pretrained_cfg_overlay=overlay).eval()
    expected = torch.from_numpy(answers["1x224x224/logits"])
    with torch.no_grad():
        logits = model(torch.from_numpy(image(1, 224, 224)))
    assert (logits - expected).norm() / expected.norm() < 5e-6
    rmt.save_checkpoint(model, tmp_path / "ours.safetensors")
    again, metadata = load_model(tmp_path / "ours.safetensors")
    assert metadata["model_args"].items() >= FIRST_RELEASE.items()
    with torch.no_grad():
        assert torch.equal(again(torch.from_numpy(image(1, 224, 224))), logits)
    features = timm.create_model("rmt_tiny", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
    assert features.model.stages[0].blocks[0].attn.phases == "none"
    other = timm.create_model("rmt_tiny", pretrained=True, pretrained_cfg_overlay=overlay, phases="axial")
    assert other.phases == "axial"  # what is asked for stays
    said = r"first release: .*phases='none', ffn_conv=False, .*head_norm='batch'\), or .*head_norm=batch$"
    for wrong in (dict(), FIRST_RELEASE | dict(phases="flat")):
        with pytest.raises(RMTError, match=said):
            load_official(create_model("rmt_tiny", **wrong), tmp_path / "RMT-T.pth")


def test_a_file_of_before_the_phases_were_an_option_keeps_its_function(tmp_path):
    """decay="paper" of such a file means flat phases with the decay after the softmax."""
    rmt.save_checkpoint(pico(decay="paper"), tmp_path / "m.safetensors")
    assert "phases" not in read_metadata(tmp_path / "m.safetensors")["model_args"]
    model, _ = load_model(tmp_path / "m.safetensors")
    assert {(b.attn.phases, b.attn.decay) for s in model.stages for b in s.blocks} == {("flat", "paper")}


def test_another_number_of_classes_needs_a_word(file):
    model = create_model("rmt_pico", num_classes=7)
    fresh = model.head.fc.weight.clone()
    with pytest.raises(RMTError, match=r"head\.fc\.weight \(5, 256\) instead of \(7, 256\).*new_head=True"):
        load_checkpoint(model, file)
    assert load_checkpoint(model, file, new_head=True) == ["head.fc.weight", "head.fc.bias"]
    assert torch.equal(model.head.fc.weight, fresh)
    assert torch.equal(model.head.proj.weight, pico().head.proj.weight)
    same = create_model("rmt_pico", num_classes=5)
    assert load_checkpoint(same, file, new_head=True) == []  # where it fits, it is loaded
    assert torch.equal(same.head.fc.weight, pico().head.fc.weight)


def test_a_token_labelling_head_is_not_dropped_silently(tmp_path):
    rmt.save_checkpoint(pico(aux_head=True), tmp_path / "tl.safetensors")
    with pytest.raises(RMTError, match=r"2 unexpected: aux_head\.bias, aux_head\.weight"):
        load_checkpoint(pico(), tmp_path / "tl.safetensors")


@pytest.mark.parametrize("counts", [(0, 10), (5, 0, 10)])
def test_a_token_labelling_network_keeps_its_kind_through_no_classes(tmp_path, counts):
    model = create_model("rmt_pico_tl", num_classes=counts[0]).eval()
    for count in counts[1:]:
        model.reset_classifier(count)
    assert model.aux_head.out_features == 10
    assert model.aux_head.weight.std().item() == pytest.approx(0.02, rel=0.1)  # initialised as at the beginning
    rmt.save_checkpoint(model, tmp_path / "tl.safetensors")
    again, _ = load_model(tmp_path / "tl.safetensors")
    x = torch.randn(2, 3, 48, 32)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))
    plain = create_model("rmt_pico", num_classes=0)
    plain.reset_classifier(10)
    assert plain.aux_head is None


def test_errors_list_the_names(file):
    state = pico().state_dict()
    state["stem.0.weight"] = torch.zeros(1)
    state["extra"] = torch.zeros(1)
    del state["stem.1.bias"]
    with pytest.raises(RMTError) as error:
        load_official(pico(), state)
    text = str(error.value)
    assert "1 missing: stem.1.bias" in text and "1 unexpected: extra" in text
    assert "stem.0.weight (1,) instead of (16, 3, 3, 3)" in text
    assert "\n" not in text


def test_another_network(file):
    with pytest.raises(RMTError, match="does not fit the network") as error:
        load_checkpoint(create_model("rmt_tiny"), file)
    assert len(str(error.value)) < 2000 and "\n" not in str(error.value)


def test_a_foreign_safetensors_file(tmp_path):
    safetensors.torch.save_file({"a": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(RMTError, match="no `rmt` metadata"):
        load_model(tmp_path / "foreign.safetensors")


def test_a_run_folder_means_its_best_weights(tmp_path):
    rmt.save_checkpoint(pico(), tmp_path / "best.safetensors")
    assert load_checkpoint(pico(), tmp_path) == []
    (tmp_path / "best.safetensors").unlink()
    with pytest.raises(RMTError, match=r"without best\.safetensors"):
        load_model(tmp_path)
    (tmp_path / "recipe.json").write_text("{}")  # what a run writes first
    with pytest.raises(RMTError, match=f"before its first evaluation; continue it with rmt train --resume {tmp_path}"):
        load_model(tmp_path)


def test_failed_write_leaves_the_old_file_whole(file, monkeypatch):
    before = file.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RMTError, match=r"cannot write .*model\.safetensors: the disk is full"):
        rmt.save_checkpoint(pico(), file)
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]
    with pytest.raises(RMTError, match="cannot write"):
        rmt.save_checkpoint(pico(), file.parent / "absent" / "x.safetensors")


class TestPretrained:
    """timm.create_model(…, pretrained=True), the way other libraries load us."""

    def test_without_a_file(self):
        with pytest.raises(RMTError, match="github.com/qhfan/RMT.*pretrained_cfg_overlay") as error:
            timm.create_model("rmt_small", pretrained=True)
        assert "\n" not in str(error.value)

    @pytest.fixture(params=["ours", "theirs"])
    def overlay(self, request, tmp_path):
        if request.param == "ours":
            rmt.save_checkpoint(pico(), tmp_path / "m.safetensors")
            return dict(file=str(tmp_path / "m.safetensors"))
        torch.save({"model": official(pico())}, tmp_path / "m.pth")
        return dict(file=str(tmp_path / "m.pth"))

    def test_the_files_classes_are_the_default(self, overlay):
        model = timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay)
        for name, value in pico().state_dict().items():
            assert torch.equal(model.state_dict()[name], value)

    def test_other_classes_and_channels(self, overlay):
        model = timm.create_model(
            "rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=9, in_chans=1
        )
        assert model.head.fc.weight.shape == (9, 256)
        torch.testing.assert_close(model.stem[0].weight, pico().stem[0].weight.sum(1, keepdim=True))
        assert torch.equal(model.head.proj.weight, pico().head.proj.weight)
        kept = timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=5)
        assert torch.equal(kept.head.fc.weight, pico().head.fc.weight)

    def test_the_files_channels_are_the_default_and_kept(self, tmp_path):
        rmt.save_checkpoint(pico(in_chans=1), tmp_path / "grey.safetensors")
        overlay = dict(file=str(tmp_path / "grey.safetensors"))
        model = timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay).eval()
        rmt.save_checkpoint(model, tmp_path / "again.safetensors")
        again, metadata = load_model(tmp_path / "again.safetensors")
        x = torch.randn(1, 1, 48, 32)
        with torch.no_grad():
            assert torch.equal(again(x), model(x))
        assert metadata["model_args"]["in_chans"] == 1
        save_model(rmt.segmenter("semantic_fpn", model, head_args=dict(channels=8)), tmp_path / "s.safetensors")
        assert load_with_head(tmp_path / "s.safetensors")[0].pyramid.backbone.in_chans == 1

    def test_features_only(self, overlay):
        model = timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            expected = pico().eval().forward_intermediates(x, intermediates_only=True)
            for got, want in zip(model.eval()(x), expected, strict=True):
                torch.testing.assert_close(got, want)

    def test_a_backbone_alone(self, tmp_path):
        state = {f"backbone.{k}": v for k, v in official(pico()).items() if k.startswith(("patch", "layers"))}
        torch.save({"state_dict": state}, tmp_path / "detector.pth")
        overlay = dict(file=str(tmp_path / "detector.pth"))
        model = timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay, features_only=True)
        assert torch.equal(model.model.stem[0].weight, pico().stem[0].weight)
        with pytest.raises(RMTError, match="has no classifier; pass features_only=True"):
            timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=overlay)

    def test_another_network(self, overlay):
        with pytest.raises(RMTError, match="does not fit the network"):
            timm.create_model("rmt_tiny", pretrained=True, pretrained_cfg_overlay=overlay)

    def test_a_dict(self):
        state = official(pico())
        model = timm.create_model("rmt_pico", pretrained=True, pretrained_cfg_overlay=dict(state_dict=state))
        assert torch.equal(model.head.fc.weight, pico().head.fc.weight)
