"""The rank of a process as torchrun, srun or `rmt train` tell it; what is refused; the collectives."""

import os
import re
import signal
import time
from dataclasses import replace

import pytest
from helpers.runs import tiny_recipe
from helpers.together import run_together

import rmt
from rmt.training.distributed import monitor, processes
from rmt.training.distributed.environment import WorkerEnvironment
from rmt.training.distributed.launch import process_group
from rmt.training.machine import Machine

TORCHRUN = dict(TORCHELASTIC_RUN_ID="x", RANK=5, WORLD_SIZE=8, LOCAL_RANK=1, LOCAL_WORLD_SIZE=4, GROUP_RANK=1)
TORCHRUN |= dict(MASTER_ADDR="a", MASTER_PORT=1)
SRUN = dict(SLURM_STEP_NUM_TASKS=8, SLURM_STEP_NUM_NODES=2, SLURM_PROCID=5, SLURM_LOCALID=1, SLURM_NODEID=1)
SRUN |= dict(SLURM_STEP_NODELIST="gpu[07-08]", SLURM_JOB_ID=123456)


def strings(values):
    return {key: str(value) for key, value in values.items()}


@pytest.fixture
def alone(monkeypatch):
    for name in (*TORCHRUN, *SRUN, "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)


def test_torchrun_and_srun_give_the_same_environment():
    torchrun, srun = WorkerEnvironment.from_environ(strings(TORCHRUN)), WorkerEnvironment.from_environ(strings(SRUN))
    assert torchrun == WorkerEnvironment(
        rank=5, world_size=8, local_rank=1, local_world_size=4, node_rank=1, address="a", port=1
    )
    assert WorkerEnvironment.from_environ(torchrun.environ()) == torchrun
    assert srun == replace(torchrun, address="gpu07", port=15_000 + 3456)
    assert srun.nodes == 2
    assert WorkerEnvironment.from_environ({}) is None
    sbatch = SRUN | {"SLURM_STEP_NUM_TASKS": 1}  # its script, not yet started by srun
    assert WorkerEnvironment.from_environ(strings(sbatch)) is None
    with pytest.raises(rmt.RMTError, match="7 tasks on 2 nodes"):
        WorkerEnvironment.from_environ(strings(SRUN | {"SLURM_STEP_NUM_TASKS": 7}))


def test_the_launcher_decides_the_number_of_devices(alone, monkeypatch):
    assert (Machine.detect(tiny_recipe(devices="auto")).devices, Machine.detect(tiny_recipe()).nodes) == (1, 1)
    for name, value in strings(TORCHRUN).items():
        monkeypatch.setenv(name, value)
    resolved = Machine.detect(tiny_recipe(devices="auto"))
    assert (resolved.devices, resolved.nodes) == (4, 2)
    with pytest.raises(rmt.RMTError, match=r"--devices 8 --nodes 1, but the launcher started 4 .* each of 2 machines"):
        Machine.detect(tiny_recipe(devices=8, nodes=1))


def test_fsdp_is_refused_on_one_device(alone):
    with pytest.raises(rmt.RMTError, match="--strategy fsdp shards a network over devices, and this run has one"):
        Machine.detect(tiny_recipe(strategy="fsdp", devices="auto"))
    assert Machine.detect(tiny_recipe(strategy="fsdp", devices=2)).devices == 2


def test_several_machines_need_an_address_and_their_numbers(alone):
    with (
        pytest.raises(rmt.RMTError, match="NODE_RANK .0 to 3., MASTER_ADDR and MASTER_PORT"),
        process_group(Machine.detect(tiny_recipe(devices=2, nodes=4))),
    ):
        pass


def _communicate(file):
    with process_group(Machine.detect(tiny_recipe(devices="auto"))):
        rank = processes.rank()
        assert (processes.world_size(), processes.is_main_process()) == (3, rank == 0)
        assert processes.all_reduce_mean(rank) == 1.0
        assert processes.all_reduce_max(rank, -rank) == [2, 0]
        assert processes.all_gather(f"r{rank}") == ["r0", "r1", "r2"]
        assert processes.broadcast_from_main(lambda: rank) == 0
        with processes.main_process_first():
            assert file.exists() == bool(rank)
            file.touch()
    print("alone:", processes.world_size())


def test_processes_agree_and_the_main_one_goes_on_alone(tmp_path):
    assert run_together(_communicate, tmp_path / "file", size=3, output=tmp_path) == [0, 0, 0]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(3)] == ["alone: 1\n", "", ""]


def _hang():
    """Rank 2 is killed while the others wait for something that does not end, as in a collective of NCCL."""
    monitor._GRACE = 1.0  # seconds
    with process_group(Machine.detect(tiny_recipe(devices="auto"))):
        if processes.rank() == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def test_a_killed_process_ends_those_that_hang_with_one_line(tmp_path):
    began = time.monotonic()
    assert run_together(_hang, size=3, output=tmp_path) == [1, 1, -9]
    assert time.monotonic() - began < 30
    assert re.fullmatch(
        r"rmt: rank 2 \(pid \d+ on \S+\) died without a message: .*killed.*\n", (tmp_path / "0.txt").read_text()
    )
    assert (tmp_path / "1.txt").read_text() == ""


def test_a_second_training_on_several_devices_is_refused(alone, monkeypatch):
    """Its other processes would run the script from its beginning, and so the first training."""
    monkeypatch.setenv("RMT_PROCESSES_LEFT", "1")
    with (
        pytest.raises(rmt.RMTError, match="one multi-device training only; start a new process"),
        process_group(Machine.detect(tiny_recipe(devices=2, nodes=1))),
    ):
        pass
    with process_group(Machine.detect(tiny_recipe(devices=1, nodes=1))):
        assert processes.world_size() == 1


def test_collectives_of_one_process_return_its_value():
    assert processes.all_reduce_mean(2.0) == 2.0
    assert processes.all_reduce_max(1, 2) == [1, 2]
    assert processes.all_gather(1) == [1]
    assert processes.broadcast_from_main(lambda: 1) == 1
    with processes.main_process_first():
        pass
