"""Files from strangers: damaged, lying or hostile, they end in one line, run no code and reach no other file."""

import contextlib
import inspect
import json
import os
import pickle
import zipfile

import pytest
import safetensors.torch
import torch
from helpers.networks import official, pico
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import rmt
from rmt.heads import load_model as load_with_head
from rmt.heads import save_model
from rmt.model import RMT, load_checkpoint, load_model, load_official, read_metadata
from rmt.model.state_dicts import read_state_dict

RMTError = rmt.RMTError


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.safetensors"
    rmt.save_checkpoint(pico(), path)
    return path


class Malicious:
    def __reduce__(self):
        return os.system, ("touch HACKED",)


def bad_files(tmp_path):
    torch.save({"model": official(pico()), "x": Malicious()}, tmp_path / "code.pth")
    (tmp_path / "code.pkl").write_bytes(pickle.dumps(Malicious()))
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "text.safetensors").write_text("hello")
    torch.save([1, 2], tmp_path / "list.pth")
    torch.save({"a": 1}, tmp_path / "none.pth")
    whole = tmp_path / "whole.pth"
    torch.save(official(pico()), whole)
    (tmp_path / "cut.pth").write_bytes(whole.read_bytes()[:200_000])
    ours = tmp_path / "ours.safetensors"
    rmt.save_checkpoint(pico(), ours)
    (tmp_path / "cut.safetensors").write_bytes(ours.read_bytes()[:200_000])
    (tmp_path / "header.safetensors").write_bytes((2**63 - 1).to_bytes(8, "little") + b"{" * 50)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, bytes(100_000_000) if entry.filename.endswith("/0") else old.read(entry))
    return [p for p in sorted(tmp_path.iterdir()) if p.name not in ("whole.pth", "ours.safetensors")]


def test_bad_files_end_in_one_line_and_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = bad_files(tmp_path)
    assert len(files) == 11
    for path in [*files, tmp_path / "absent.pth", tmp_path]:
        for call in (lambda p: load_official(pico(), p), lambda p: load_checkpoint(pico(), p), load_model):
            with pytest.raises(RMTError) as error:
                call(path)
            assert path.name in str(error.value) and "\n" not in str(error.value), path
        if path.name == "code.pth":
            with pytest.raises(RMTError, match="could run code"):
                load_official(pico(), path)
    assert not (tmp_path / "HACKED").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(format=2), "format 2"),
        (dict(model="resnet5000"), "no network named"),
        (dict(model="resnet50"), "does not fit"),
        (dict(model=None), "no valid `model`"),
        (dict(task="detect"), "task 'detect'"),
        (dict(model_args=dict(num_classes=10**12)), "out of bounds"),
        (dict(model_args=dict(depths=[10**6, 1, 1, 1])), "out of bounds"),
        (dict(model_args=dict(num_classes=900_000)), "does not fit"),
        (dict(model_args=dict(colour="red")), "cannot be built"),
        (dict(model_args=dict(decay="linear")), "cannot be built"),
    ],
    ids=str,
)
def test_untrustworthy_metadata(file, change, match):
    metadata = read_metadata(file) | change
    safetensors.torch.save_file(pico().state_dict(), file, metadata={"rmt": json.dumps(metadata)})
    with pytest.raises(RMTError, match=match):
        load_model(file)


def with_model_args(file, **change):
    """The same weights under other `model_args`."""
    metadata, tensors = read_metadata(file), safetensors.torch.load_file(file)
    metadata["model_args"] |= change
    safetensors.torch.save_file(tensors, file, metadata={"rmt": json.dumps(metadata)})


@pytest.mark.parametrize("key", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "colour"])
@pytest.mark.parametrize("task", ["classify", "segment"])
def test_a_model_file_reaches_no_other_file(file, monkeypatch, task, key):
    """timm's factory takes keywords that open files, some by unpickling: none of a file's keywords may get there."""
    other = file.with_name("other.pth")
    other.write_bytes(pickle.dumps(Malicious()))
    value = dict(checkpoint_path=str(other), pretrained=True, colour="red").get(key, {"file": str(other)})
    if task == "segment":
        save_model(rmt.segmenter("semantic_fpn", "rmt_pico", head_args=dict(channels=8, fpn_channels=8)), file)
    with_model_args(file, **{key: value})
    monkeypatch.chdir(file.parent)
    monkeypatch.setattr(torch, "load", lambda *args, **kwargs: pytest.fail("another file was opened"))
    with pytest.raises(RMTError, match=f"{file} describes a network .*'{key}', which is not an argument") as error:
        (load_model if task == "classify" else load_with_head)(file)
    assert "\n" not in str(error.value)
    assert not (file.parent / "HACKED").exists()


@pytest.mark.parametrize("name", sorted(inspect.signature(RMT).parameters))
def test_nonsense_for_any_argument_is_one_line(file, name):
    for value in (0, -1, 1.5, "x", True, None, [], [0] * 4, ["x"] * 4, [[]] * 4, {}, [1] * 17, 10**12):
        with_model_args(file, **{name: value})
        with contextlib.suppress(RMTError):  # anything else is the failure looked for
            load_model(file)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_never_end_in_a_traceback(tmp_path, data):
    """A whole file with bytes overwritten or cut off loads, or is refused in one line."""
    kind = data.draw(st.sampled_from(["safetensors", "pth", "legacy"]))
    path = tmp_path / f"damaged.{kind}"
    state = {"model": {"head.fc.weight": torch.arange(12.0).view(3, 4), "stem.0.bias": torch.zeros(2)}}
    if kind == "safetensors":
        safetensors.torch.save_file(state["model"], path, metadata={"rmt": '{"format": 1}'})
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind == "pth")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    for call in (read_state_dict, read_metadata):
        with contextlib.suppress(RMTError):  # anything else is the failure looked for
            call(path)
