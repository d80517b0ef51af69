"""Two networks on Ray: the rows of one network here, also where a process is killed, and each exactly once."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import rmt
from rmt.commands.cli import main
from rmt.data.sources.collection import open_collection
from rmt.errors import RMTError
from rmt.model import create_model

pytestmark = pytest.mark.optional

IMAGES, CHUNK = 12, 2


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Ray with four cores, whatever the machine has."""
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15 by default, which never ends on a busy machine
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve images and one that cannot be read."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(random.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "05-bad.png").write_bytes(b"none")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "net.safetensors"
    rmt.save_checkpoint(create_model("rmt_test", num_classes=4), path, preprocessing={"size": [32, 32]})
    return path


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    from rmt.inference.bulk import ray_engine

    monkeypatch.setattr(ray_engine, "CHUNK", CHUNK)


def test_the_rows_are_those_of_one_network(network, data, tmp_path, capsys):
    options = ["--device", "cpu", "--workers", "0", "--batch-size", "2"]
    for command in ("predict", "embed"):
        found = []
        for name, more in (("here", []), ("ray", ["--engine", "ray", "--replicas", "2"])):
            output = tmp_path / f"{command}-{name}.parquet"
            assert main([command, str(network), str(data), "--output", str(output), *options, *more]) == 1
            out, err = capsys.readouterr()
            assert "12 images by rmt_test@" in out and "05-bad.png: not an image" in err
            found.append(pq.read_table(output))
        assert found[0].equals(found[1])


def test_what_a_killed_process_had_is_done_again_and_nothing_twice(network, data, tmp_path):
    """The process that takes chunk 3 is killed in its midst; whatever else it has done since counts once."""
    from rmt.inference.bulk.ray_engine import run_chunks

    class Killed:
        def __init__(self, marker: str) -> None:
            self.marker = marker

        def __call__(self, indices: np.ndarray) -> bytes:
            if 3 in indices and not os.path.exists(self.marker):
                with open(self.marker, "w"):
                    os.kill(os.getpid(), signal.SIGKILL)
            return f"{os.getpid()}:{','.join(map(str, indices))}".encode()

    chunks = [np.array([number, number + 100]) for number in range(8)]
    marker = tmp_path / "killed"
    results = list(run_chunks(Killed, (str(marker),), chunks, replicas=2, cores=1, gpu=False))
    assert marker.exists()
    done = sorted(int(result.decode().partition(":")[2].partition(",")[0]) for result in results)
    assert done == list(range(8))
    assert os.getpid() not in {int(result.decode().partition(":")[0]) for result in results}


def test_a_mistake_in_a_process_is_one_line(tmp_path):
    from rmt.inference.bulk.ray_engine import run_chunks

    class Wrong:
        def __init__(self, where: str) -> None:
            if where == "start":
                raise RMTError("no such network")

        def __call__(self, indices: np.ndarray) -> bytes:
            raise RMTError("no such image")

    for where, line in (("start", "no such network"), ("call", "no such image")):
        with pytest.raises(RMTError, match=f"^{line}$"):
            list(run_chunks(Wrong, (where,), [np.arange(2)] * 3, replicas=2, cores=1, gpu=False))


def test_the_interrupted_command_is_continued(network, data, tmp_path):
    """What an engine has yielded is kept: the next call does the rest, with or without Ray."""
    from rmt.inference.bulk.job import write_answers
    from rmt.inference.bulk.ray_engine import RayEngine
    from rmt.inference.bulk.work import Prediction

    work = Prediction(checkpoint=network, load_options={"device": "cpu"}, batch_size=2, workers=0)
    images = open_collection(sorted(data.glob("[0-9][0-9].png")))
    write_answers(work, images, tmp_path / "whole.parquet")
    engine, taken = RayEngine(2), []

    def stopping(*arguments):
        for done in engine(*arguments):
            taken.append(done)
            yield done
            if len(taken) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_answers(work, images, tmp_path / "x.parquet", engine=stopping)
    report = write_answers(work, images, tmp_path / "x.parquet")
    assert (report.before, report.images) == (4, IMAGES - 4)
    assert pq.read_table(tmp_path / "x.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
