"""Two teachers on Ray write the files of one."""

import pytest
from helpers.pictures import make_folder

import rmt
from rmt.commands.cli import main

pytestmark = pytest.mark.optional


def test_the_files_are_those_of_one_teacher(tmp_path, capsys, monkeypatch):
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # 15 by default, which never ends on a busy machine
    data = make_folder(tmp_path / "photos")
    (data / "train" / "red" / "bad.png").write_bytes(b"none")
    network = rmt.create_model("rmt_test", num_classes=3)
    rmt.save_checkpoint(network, tmp_path / "teacher.safetensors", classes=("blue", "green", "red"))
    words = ["token-labels", "--weights", str(tmp_path / "teacher.safetensors"), "--data", str(data), "--workers", "0"]
    words += ["--image-size", "32", "--shard-images", "7", "--batch-size", "3", "--device", "cpu"]
    said = []
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
    try:
        for folder, more in (("here", []), ("ray", ["--engine", "ray", "--replicas", "2"])):
            assert main([*words, "--out", str(tmp_path / folder), *more]) == 0
            said.append(capsys.readouterr().out.partition(":")[2])
    finally:
        ray.shutdown()
    assert said[0] == said[1] and "bad.png" in said[0]
    here, there = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("here", "ray"))
    assert here == there and len(here) == 5


def test_more_teachers_are_for_ray(tmp_path, capsys):
    words = ["token-labels", "--weights", "rmt_micro", "--data", "sample", "--out", str(tmp_path / "out")]
    assert main([*words, "--replicas", "2"]) == 1
    assert "--replicas is the number of teachers on Ray" in capsys.readouterr().err
