"""One process per device: started by this one, by torchrun, or by SLURM's srun; joined, watched and ended together.

Started plainly (`rmt train … --devices 8`), the first process starts the others with its own command line. Under
torchrun or srun all are there already. Either way every process then runs the same program on its share of each batch.
"""

import atexit
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist

from rmt.device import choose_device
from rmt.errors import RMTError
from rmt.recipes.recipe import Device, Recipe
from rmt.training.distributed import processes
from rmt.training.distributed.watch import MainWatch, OtherWatch

R = TypeVar("R", bound=Recipe)

_PATIENCE = timedelta(hours=2)  # with a slow process; a dead one is noticed at once, see `watch`
_OURS = "RMT_PROCESSES"  # set where a process of ours has started the others
_ENDED = "RMT_PROCESSES_ENDED"
_WORDS = (_OURS, "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")


@dataclass(frozen=True)
class WorkerEnvironment:
    """Which process this is: `rank` of `size` in all, `local_rank` of `local_size` on machine `node`."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    node: int
    address: str  # of the main process's machine
    port: int

    @property
    def nodes(self) -> int:
        return self.size // self.local_size

    @classmethod
    def given(cls, env: Mapping[str, str]) -> "WorkerEnvironment | None":
        """What torchrun, srun or another process of ours told this one; None when nobody did."""
        if "TORCHELASTIC_RUN_ID" in env or _OURS in env:
            return cls(
                rank=int(env["RANK"]),
                size=int(env["WORLD_SIZE"]),
                local_rank=int(env["LOCAL_RANK"]),
                local_size=int(env["LOCAL_WORLD_SIZE"]),
                node=int(env["GROUP_RANK"]),
                address=env["MASTER_ADDR"],
                port=int(env["MASTER_PORT"]),
            )
        if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun, not by sbatch
            return _slurm(env)
        return None


def _slurm(env: Mapping[str, str]) -> WorkerEnvironment:
    from lightning.fabric.plugins.environments import SLURMEnvironment

    size, nodes = int(env["SLURM_STEP_NUM_TASKS"]), int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1)))
    if size % nodes:
        raise RMTError(f"srun started {size} tasks on {nodes} nodes: give every node as many, by --ntasks-per-node")
    hosts = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
    return WorkerEnvironment(
        rank=int(env["SLURM_PROCID"]),
        size=size,
        local_rank=int(env["SLURM_LOCALID"]),
        local_size=size // nodes,
        node=int(env["SLURM_NODEID"]),
        address=env.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(hosts),
        # The same for every task of a job, and seldom that of another job on the machine.
        port=int(env.get("MASTER_PORT") or 15_000 + int(env["SLURM_JOB_ID"]) % 10_000),
    )


def settle_devices(recipe: R) -> R:
    """The recipe with the kind and the numbers of devices filled in: as the launcher says, else all GPUs, else one CPU.

    Raises RMTError when recipe and launcher disagree, and when there are fewer GPUs than asked for.
    """
    worker = WorkerEnvironment.given(os.environ)
    device = cast(Device, choose_device(recipe.device).type)
    cuda = device == "cuda"
    devices = recipe.devices
    if devices == "auto":
        devices = worker.local_size if worker else torch.cuda.device_count() if cuda else 1
    nodes = recipe.nodes or (worker.nodes if worker else 1)
    if worker and (devices, nodes) != (worker.local_size, worker.nodes):
        raise RMTError(
            f"--devices {devices} --nodes {nodes}, but the launcher started {worker.local_size} processes on each of "
            f"{worker.nodes} machines: leave both out, or start that many"
        )
    if cuda and devices > torch.cuda.device_count():
        raise RMTError(f"--devices {devices}: PyTorch sees {torch.cuda.device_count()} GPUs here")
    if devices * nodes > 1 and device == "mps":
        raise RMTError("--device mps trains on one device; take --devices 1")
    if recipe.strategy == "fsdp" and devices * nodes == 1:
        raise RMTError(
            "--strategy fsdp divides a network among devices, and this run has one: add --devices, or drop it"
        )
    return replace(recipe, device=device, devices=devices, nodes=nodes)


@contextlib.contextmanager
def joined(recipe: Recipe) -> Iterator[None]:
    """Inside, all processes of the run are there and watched; a settled recipe says how many. Then the main one goes on
    alone, and the others end.

    When one of them fails, the main process raises RMTError with that one's name and reason and the others end
    silently, so that one line is printed.
    """
    worker = WorkerEnvironment.given(os.environ)
    if worker is not None and worker.size > 1 and _ENDED in os.environ:
        raise RMTError("torchrun and srun start the processes of one training: the second needs a start of its own")
    devices = recipe.devices if recipe.devices != "auto" else 1
    if worker is None and devices * recipe.nodes > 1:
        worker = _start_others(devices, recipe.nodes)
    if worker is None or worker.size == 1:
        yield
        return
    _meet(worker, choose_device(recipe.device))
    watch = _watch(worker)
    try:
        yield
    except BaseException as error:
        _fail(error, watch, worker.rank)
        raise
    processes.from_main(lambda: None)  # nobody leaves while another still needs it
    watch.leave()
    processes.use_messages(None)
    dist.destroy_process_group()
    if worker.rank:
        raise SystemExit(0)
    _forget()


def _forget() -> None:
    """The other processes have ended: what was said of them holds no more."""
    if os.environ.get(_OURS):
        for name in _WORDS:
            os.environ.pop(name, None)
    else:
        os.environ[_ENDED] = "1"


def _fail(error: BaseException, watch: MainWatch | OtherWatch, rank: int) -> None:
    """Tells the other processes that this one ends, and raises what it ends with, where that is not the error itself.

    The process group is left as it is: taking it apart would wait for processes that no longer answer.
    """
    said = str(error)
    if isinstance(error, Exception) and not isinstance(error, RMTError):
        # A broken connection, mostly: the first sign that another process has gone. Whose fault is it?
        if verdict := watch.wait_for_verdict():
            watch.leave(verdict)
            if watch.speaks:
                raise RMTError(verdict) from error
            raise SystemExit(1) from error
        said = f"{type(error).__name__}: {error}"
    watch.leave(said or type(error).__name__)
    if rank:
        raise SystemExit(128 + getattr(error, "signal_number", 2) if isinstance(error, KeyboardInterrupt) else 1)


def _start_others(devices: int, nodes: int) -> WorkerEnvironment:
    """Starts this machine's other processes with this one's command line, and returns this one's environment.

    Raises RMTError where that cannot be.
    """
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        raise RMTError("several devices need a process each, of the same script: start one, not an interactive session")
    env = os.environ
    if nodes > 1 and not {"NODE_RANK", "MASTER_ADDR", "MASTER_PORT"} <= set(env):
        raise RMTError(
            f"--nodes {nodes}: start it by torchrun or srun, or on each machine with NODE_RANK (0 to {nodes - 1}), "
            "MASTER_ADDR and MASTER_PORT set"
        )
    node = int(env["NODE_RANK"]) if nodes > 1 else 0
    given = dict(WORLD_SIZE=devices * nodes, LOCAL_WORLD_SIZE=devices, GROUP_RANK=node)
    env |= {_OURS: "1", **{key: str(value) for key, value in given.items()}}
    if nodes == 1:
        env |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(_free_port()))
    for local_rank in reversed(range(devices)):
        env |= dict(RANK=str(node * devices + local_rank), LOCAL_RANK=str(local_rank))
        if local_rank:
            child = subprocess.Popen([sys.executable, *sys.orig_argv[1:]], stdin=subprocess.DEVNULL)
            atexit.register(_see_off, child)
    worker = WorkerEnvironment.given(env)
    assert worker is not None
    return worker


def _see_off(child: subprocess.Popen) -> None:
    """Waits a moment for a process that has been told to end, then ends it."""
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _meet(worker: WorkerEnvironment, device: torch.device) -> None:
    """Joins the process group."""
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // worker.local_size))
    os.environ |= dict(LOCAL_RANK=str(worker.local_rank), NODE_RANK=str(worker.node))  # what Lightning goes by
    if device.type == "cuda":
        torch.cuda.set_device(worker.local_rank)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{worker.address}:{worker.port}",
            rank=worker.rank,
            world_size=worker.size,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RMTError(
            f"rank {worker.rank} could not join the {worker.size} processes at {worker.address}:{worker.port}: {reason}"
        ) from error
    if device.type == "cuda":
        processes.use_messages(dist.new_group(backend="gloo", timeout=_PATIENCE))


def _watch(worker: WorkerEnvironment) -> MainWatch | OtherWatch:
    if worker.rank == 0:
        watch = MainWatch(worker.address, worker.size - 1)
        processes.from_main(lambda: watch.meeting)
        return watch
    return OtherWatch(processes.from_main(lambda: None), worker.rank)  # type: ignore[arg-type]
