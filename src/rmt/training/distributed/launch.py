"""Starts one process per device and joins them in a process group.

`rmt train … --devices 8` starts the other seven processes with its own command line. Under torchrun or srun all have
been started already. In each case all processes then run the same program, each on its share of every batch.
"""

import atexit
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import find_free_network_port

from rmt.errors import RMTError
from rmt.training.distributed import processes
from rmt.training.distributed.environment import WorkerEnvironment
from rmt.training.distributed.monitor import Monitor
from rmt.training.machine import Machine

_TIMEOUT = timedelta(hours=2)  # of a collective, for processes that are slow; one that died is noticed at once
_LEFT = "RMT_PROCESSES_LEFT"  # set when a training on several devices is over and the main process goes on alone


@contextmanager
def process_group(machine: Machine) -> Iterator[None]:
    """Runs the body in all processes of the run, one per device. After it the main process goes on alone and the others
    exit.

    If one of them fails, the main process raises RMTError with its rank and reason and the others exit silently, so
    that one line is printed.
    """
    worker = WorkerEnvironment.from_environ(os.environ)
    if (worker.world_size if worker else machine.devices * machine.nodes) == 1:
        yield
        return
    if _LEFT in os.environ:
        raise RMTError("a script can start one multi-device training only; start a new process for the next")
    worker = worker or _start_processes(machine.devices, machine.nodes)
    _init_process_group(worker, machine.torch_device)
    monitor = Monitor(worker.address)
    try:
        yield
    except BaseException as error:
        _leave_failed(error, monitor, worker.rank)
        raise
    processes.barrier()
    monitor.leave()
    dist.destroy_process_group()
    if worker.rank:
        raise SystemExit(0)
    os.environ[_LEFT] = "1"


def _leave_failed(error: BaseException, monitor: Monitor, rank: int) -> None:
    """Tells the other processes why this one ends. Raises what it ends with, where that is not `error` itself.

    The process group is not destroyed: that would wait for processes that no longer answer.
    """
    reason, failure = str(error) or type(error).__name__, ""
    if isinstance(error, Exception) and not isinstance(error, RMTError):
        # In most cases a collective's broken connection: another process has failed first.
        failure = monitor.wait_for_failure()
        reason = failure or f"{type(error).__name__}: {error}"
    monitor.leave(reason)
    if failure and monitor.reports:
        raise RMTError(failure) from error
    if rank:
        raise SystemExit(128 + getattr(error, "signal_number", 2) if isinstance(error, KeyboardInterrupt) else 1)


def _start_processes(devices: int, nodes: int) -> WorkerEnvironment:
    """Starts this machine's other processes with this one's command line. Returns this process's environment."""
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        raise RMTError("several devices: every process re-runs the script, so start one, not an interactive session")
    env = os.environ
    if nodes > 1 and not {"NODE_RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(env):
        raise RMTError(
            f"--nodes {nodes}: start it by torchrun or srun, or on each machine with NODE_RANK (0 to {nodes - 1}), "
            "MASTER_ADDR and MASTER_PORT set"
        )
    node_rank = int(env["NODE_RANK"]) if nodes > 1 else 0
    address = env["MASTER_ADDR"] if nodes > 1 else "127.0.0.1"
    port = int(env["MASTER_PORT"]) if nodes > 1 else find_free_network_port()
    first = WorkerEnvironment(node_rank * devices, nodes * devices, 0, devices, node_rank, port, address)
    for local_rank in range(1, devices):
        worker = replace(first, rank=first.rank + local_rank, local_rank=local_rank)
        command = [sys.executable, *sys.orig_argv[1:]]
        child = subprocess.Popen(command, env=env | worker.environ(), stdin=subprocess.DEVNULL)
        atexit.register(_wait_or_kill, child)
    return first


def _wait_or_kill(child: subprocess.Popen) -> None:
    """At this process's exit, when the others have been told to exit too."""
    with suppress(subprocess.TimeoutExpired):
        child.wait(20)
    child.kill()  # does nothing to a process that has exited


def _init_process_group(worker: WorkerEnvironment, device: torch.device) -> None:
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // worker.local_world_size))
    os.environ |= dict(LOCAL_RANK=str(worker.local_rank), NODE_RANK=str(worker.node_rank))  # read by Lightning
    if device.type == "cuda":
        torch.cuda.set_device(worker.local_rank)
    store = f"tcp://{worker.address}:{worker.port}"
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, store, _TIMEOUT, rank=worker.rank, world_size=worker.world_size)
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RMTError(
            f"rank {worker.rank} could not join the {worker.world_size} processes at {store}: {reason}"
        ) from error
