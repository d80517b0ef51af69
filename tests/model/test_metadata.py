"""Every value of a model file's metadata changed: the file loads and predicts, or one line says what is wrong."""

import copy
import functools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from helpers.networks import pico
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rmt
from rmt.data.transforms import eval_transform
from rmt.heads import save_model
from rmt.model import load_model, read_metadata
from rmt.model.metadata import MAX_SIDE, metadata_problem

RMTError = rmt.RMTError
IMAGE = np.zeros((40, 48, 3), np.uint8)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, -1, 0.0, 1.5, 33_000, 10**30, -(2**70), float("nan"), float("inf"), "", "x", "\ud800", "\0"]),
    st.sampled_from([[], {}, [[]], {"a": 1}, [0, 0], [32], [32, 32, 32], ["a"], [None], [1e400], {"score": "x"}]),
    st.text(max_size=3),
)


@functools.cache
def files():
    """The metadata and tensors of a classifier, a detector and a segmenter."""
    folder = Path(tempfile.mkdtemp())
    tiny = rmt.create_model("rmt_test", num_classes=3)
    common = dict(classes=["a", "b", "c"], metrics=dict(epoch=3, weights="ema", threshold=dict(score=0.4)))
    common |= dict(recipe=dict(task="classify", holdout=0.2, seed=0, sliding=False))
    norm = dict(mean=[0.5] * 3, std=[0.5] * 3)
    rmt.save_checkpoint(tiny, folder / "classify.safetensors", **common, preprocessing=norm | dict(
        size=[32, 32], interpolation="bicubic", crop_pct=0.9, pad_to=0))  # fmt: skip
    narrow = dict(fpn_channels=8, convs=1)
    detector = rmt.detector("retinanet", "rmt_test", 3, **narrow)
    save_model(detector, folder / "detect.safetensors", **common, preprocessing=dict(
        size=[32, 64], category_ids=[1, 2, None]))  # fmt: skip
    segmenter = rmt.segmenter("semantic_fpn", "rmt_test", 3, head_args=dict(channels=8, fpn_channels=8))
    save_model(segmenter, folder / "segment.safetensors", **common, preprocessing=norm | dict(
        size=[32, 32], interpolation="bilinear", long_side=64, short_side=32, zero_is_ignored=False,
        inference="whole"))  # fmt: skip
    paths = sorted(folder.iterdir())
    found = [(read_metadata(path), safetensors.torch.load_file(path)) for path in paths]
    shutil.rmtree(folder)
    return found


def places(value, path=()):
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if path:
        yield path
    for key, entry in inside:
        yield from places(entry, (*path, key))


def write(path, metadata, tensors):
    safetensors.torch.save_file(tensors, path, metadata={"rmt": json.dumps(metadata)})


@pytest.mark.parametrize("number", range(3), ids=["classify", "detect", "segment"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_predicts_or_is_one_line(tmp_path, number, data):
    metadata, tensors = files()[number]
    known = sorted(places(metadata), key=str)
    path, other = data.draw(st.sampled_from(known)), copy.deepcopy(metadata)
    holder = other
    for key in path[:-1]:
        holder = holder[key]
    if data.draw(st.booleans()):
        holder[path[-1]] = data.draw(ANYTHING)
    else:
        del holder[path[-1]]
    if metadata_problem(other) and data.draw(st.integers(0, 4)):
        return  # refused at once: a few are tried as files, too
    file = tmp_path / "changed.safetensors"
    write(file, other, tensors)
    try:
        (found,) = rmt.load(file, device="cpu").predict([IMAGE])
    except RMTError as error:
        message = str(error)
    else:
        assert found is not None
        return
    assert "\n" not in message and len(message) < 2000 and message.isprintable()


def test_a_network_without_pooling_is_no_classifier(tmp_path):
    metadata, tensors = files()[0]
    file = tmp_path / "unpooled.safetensors"
    write(file, metadata | dict(model_args=metadata["model_args"] | dict(global_pool="")), tensors)
    with pytest.raises(RMTError, match="logits of 4 dimensions"):
        rmt.load(file, device="cpu").predict(IMAGE)


@pytest.mark.parametrize("number", range(3), ids=["classify", "detect", "segment"])
def test_without_recipe_and_metrics_is_the_same_as_with_null(tmp_path, number):
    metadata, tensors = files()[number]
    without = {key: value for key, value in metadata.items() if key not in ("metrics", "recipe")}
    without["preprocessing"] = {key: value for key, value in metadata["preprocessing"].items() if key != "inference"}
    nulls = without | dict(metrics=None, recipe=None, preprocessing=without["preprocessing"] | dict(inference=None))
    read, predicted = [], []
    for name, content in (("without", without), ("nulls", nulls)):
        file = tmp_path / f"{name}.safetensors"
        write(file, content, tensors)
        read.append(read_metadata(file))
        predicted.append(rmt.load(file, device="cpu").predict([IMAGE]))
    assert read[0] == read[1] and str(predicted[0]) == str(predicted[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(classes=["a", "b"]), "names 2 classes, and its network has 3 outputs"),
        (dict(classes=["a", "b", 3]), "classes"),
        (dict(classes=["a", "b", "\ud800"]), "lone surrogate"),
        (dict(classes=["a", "b", ""]), "classes"),
        (dict(preprocessing=dict(size=[33_000, 33_000])), f"preprocessing.size.*to {MAX_SIDE}"),
        (dict(preprocessing=dict(size=[32])), r"preprocessing\.size"),
        (dict(preprocessing=dict(size=[32, 32], std=[0, 0, 0])), r"preprocessing\.std"),
        (dict(preprocessing=dict(size=[32, 32], mean=[0.5], std=[0.5, 0.5])), "mean` of 1 and a `std` of 2"),
        (dict(preprocessing=dict(size=[32, 32], crop_pct=0)), r"crop_pct"),
        (dict(preprocessing=dict(size=[32, 32], interpolation="best")), "interpolation"),
        (dict(preprocessing=dict(size=[32, 32], gamma=2)), r"preprocessing\.gamma` .* does not know: update"),
        (dict(metrics=[1]), "metrics"),
        (dict(metrics=dict(weights="sum")), r"metrics\.weights.*raw or ema"),
        (dict(format="1"), "format '1'"),
        (dict(format=True), "format True"),
        (dict(model_args=dict(depths=[64, 64, 64, 65])), "out of bounds"),
    ],
    ids=str,
)
def test_what_is_wrong_is_named(tmp_path, change, message):
    metadata, tensors = files()[0]
    write(tmp_path / "m.safetensors", metadata | change, tensors)
    with pytest.raises(RMTError, match=message) as error:
        load_model(tmp_path / "m.safetensors")
    assert "\n" not in str(error.value) and str(tmp_path / "m.safetensors") in str(error.value)


def test_a_classifier_takes_no_notice_of_the_options_of_other_tasks(tmp_path):
    metadata, tensors = files()[0]
    more = metadata | dict(preprocessing=metadata["preprocessing"] | dict(short_side=800))
    write(tmp_path / "m.safetensors", more, tensors)
    predictor = rmt.load(tmp_path / "m.safetensors", device="cpu")
    eval_transform(**predictor.preprocessing)
    assert predictor.preprocessing == metadata["preprocessing"]


def test_null_is_as_if_it_were_not_there(tmp_path):
    metadata, tensors = files()[0]
    nulls = metadata | dict(preprocessing=metadata["preprocessing"] | dict(crop_pct=None, pad_to=None), metrics=None)
    write(tmp_path / "m.safetensors", nulls, tensors)
    assert len(rmt.load(tmp_path / "m.safetensors", device="cpu").predict(IMAGE)[0]) == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_other_precisions_load(tmp_path, dtype):
    model = pico().eval()
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in model.state_dict().items()}
    rmt.save_checkpoint(model, tmp_path / "m.safetensors", state_dict=state)
    loaded, _ = load_model(tmp_path / "m.safetensors")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name
    with torch.no_grad():
        assert loaded(torch.randn(1, 3, 32, 32)).isfinite().all()
    rmt.load_official(other := pico(), tmp_path / "m.safetensors")
    assert torch.equal(other.head.fc.weight, loaded.head.fc.weight)


@pytest.mark.parametrize("dtype", [torch.int8, torch.complex64, torch.bool])
def test_weights_that_are_no_floating_point_numbers_are_refused(tmp_path, dtype):
    state = pico().state_dict()
    state["head.fc.weight"] = state["head.fc.weight"].to(dtype)
    rmt.save_checkpoint(pico(), tmp_path / "m.safetensors", state_dict=state)
    for load in (load_model, lambda path: rmt.load_official(pico(), path)):
        with pytest.raises(RMTError, match=r"1 of another kind of numbers: head\.fc\.weight of"):
            load(tmp_path / "m.safetensors")
