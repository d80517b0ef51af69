"""A newer file takes the place of the network; a broken one does not."""

import os
import shutil
import threading
from types import SimpleNamespace
from typing import ClassVar

import pytest
from helpers.served import classifier, picture, segmenter

pytest.importorskip("fastapi")
from starlette.testclient import TestClient

from rmt.errors import RMTError
from rmt.inference import Predictor
from rmt.serve import hosted as module
from rmt.serve.app import create_app
from rmt.serve.hosted import Hosted, Watch

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("networks")
    classifier(made / "one.safetensors", seed=1)
    classifier(made / "two.safetensors", seed=2)
    segmenter(made / "segmenter.safetensors")
    return made


def replace(folder, name, target):
    shutil.copy(folder / name, target.with_suffix(".new"))
    os.replace(target.with_suffix(".new"), target)


@pytest.fixture
def watched(folder, tmp_path):
    """A hosted network and a watch whose looks the test makes itself."""
    target = tmp_path / "best.safetensors"
    replace(folder, "one.safetensors", target)
    hosted, outcomes = Hosted(target, device="cpu"), []
    watch = Watch(hosted, outcomes.append, seconds=1000)
    yield target, hosted, watch, outcomes
    watch._stop.set()


def test_a_new_file_is_loaded_once_it_is_no_longer_written(watched, folder):
    target, hosted, watch, outcomes = watched
    before = hosted.predictor
    watch.look()
    replace(folder, "two.safetensors", target)
    watch.look()
    assert hosted.predictor is before, "the file may still be growing"
    watch.look()
    watch.look()
    assert outcomes == ["loaded"] and hosted.version == 2 and hosted.predictor is not before


@pytest.mark.parametrize("broken", ["cut", "missing", "other task", "not finite"])
def test_a_broken_file_is_refused_and_the_next_good_one_taken(watched, folder, broken, capsys):
    target, hosted, watch, outcomes = watched
    before = hosted.predictor
    if broken == "cut":
        target.write_bytes((folder / "two.safetensors").read_bytes()[:5000])
    elif broken == "missing":
        target.unlink()
    elif broken == "other task":
        replace(folder, "segmenter.safetensors", target)
    else:
        content = bytearray((folder / "two.safetensors").read_bytes())
        content[-4000:] = b"\xff" * 4000  # NaN
        target.write_bytes(content)
    watch.look()
    watch.look()
    watch.look()
    assert hosted.predictor is before and hosted.version == 1
    assert outcomes == ([] if broken == "missing" else ["refused"]), "each file is tried once"
    message = capsys.readouterr().err
    assert broken == "missing" or (message.count("\n") == 1 and "the old network serves on" in message)
    replace(folder, "two.safetensors", target)
    watch.look()
    watch.look()
    assert outcomes[-1] == "loaded" and hosted.version == 2


def test_both_files_of_openvino_count(tmp_path):
    for suffix in (".xml", ".bin"):
        (tmp_path / f"a{suffix}").write_bytes(b"1")
    hosted = Hosted.__new__(Hosted)
    hosted.path = tmp_path / "a.xml"
    before = hosted.fingerprint()
    (tmp_path / "a.bin").write_bytes(b"22")
    assert hosted.fingerprint() != before
    (tmp_path / "a.bin").unlink()
    assert hosted.fingerprint() is None


def test_a_network_that_does_not_run_is_refused_at_the_start(folder, monkeypatch):
    monkeypatch.setattr(module, "load", lambda *_, **__: _Failing())
    with pytest.raises(RMTError, match="loads, but does not run: ZeroDivisionError"):
        Hosted("x")


class _Failing:
    task = "classify"
    metadata: ClassVar[dict] = {}

    def predict_batch(self, images):
        return 1 / 0


def test_no_request_is_lost_while_files_change(folder, tmp_path, monkeypatch):
    """Requests all the time, while good and broken files take each other's place: every one is answered."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)
    target = tmp_path / "best.safetensors"
    replace(folder, "one.safetensors", target)
    hosted = Hosted(target, device="cpu")
    monkeypatch.setattr(Watch.__init__, "__defaults__", (0.01,))
    statuses, versions, end = [], set(), threading.Event()
    with TestClient(create_app(hosted, reload=True)) as client:

        def send():
            while not end.is_set():
                response = client.post("/predict", content=picture(), headers=PNG)
                statuses.append(response.status_code)
                versions.add(response.json()["version"])

        senders = [threading.Thread(target=send) for _ in range(3)]
        for sender in senders:
            sender.start()
        for number, name in enumerate(("two", "one", "two")):
            replace(folder, f"{name}.safetensors", target)
            while hosted.version < number + 2:
                end.wait(0.005)
            target.write_bytes(b"broken")
            end.wait(0.05)
        end.set()
        for sender in senders:
            sender.join()
    assert set(statuses) == {200} and len(statuses) > 10 and max(versions) == 4
    assert isinstance(hosted.predictor, Predictor)


@pytest.mark.parametrize(
    ("shape", "tried"),
    [([1, 3, 32, 64], [(32, 64)]), ([None, 3, None, None], [(48, 64), (64, 48)]), (None, [(48, 64), (64, 48)])],
)
def test_a_fixed_graph_is_tried_with_its_own_size(shape, tried):
    exported = {} if shape is None else {"exported": {"input": {"shape": shape}}}
    assert module._probe_sizes(SimpleNamespace(metadata=exported)) == tried
