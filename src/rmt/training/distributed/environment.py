"""Which process of a run this is, from the environment variables that its launcher sets."""

from collections.abc import Mapping
from dataclasses import dataclass

from lightning.fabric.plugins.environments import SLURMEnvironment

from rmt.errors import RMTError

_STARTED = "RMT_PROCESSES"  # set in the processes that `rmt train … --devices N` starts
_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_PORT", "MASTER_ADDR")


@dataclass(frozen=True)
class WorkerEnvironment:
    """Process `rank` of `world_size`, and `local_rank` of `local_world_size` on machine number `node_rank`."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    port: int
    address: str  # host name or IP address of the main process's machine

    @property
    def nodes(self) -> int:
        return self.world_size // self.local_world_size

    @classmethod
    def from_environ(cls, env: Mapping[str, str]) -> "WorkerEnvironment | None":
        """What torchrun, srun or `rmt train` has set for this process; None if none of them started it."""
        if "TORCHELASTIC_RUN_ID" in env or _STARTED in env:
            rank, world_size, local_rank, local_world_size, node_rank, port = (int(env[v]) for v in _VARIABLES[:-1])
            return cls(rank, world_size, local_rank, local_world_size, node_rank, port, env["MASTER_ADDR"])
        if int(env.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # set by srun, not by sbatch
            return cls._from_slurm(env)
        return None

    @classmethod
    def _from_slurm(cls, env: Mapping[str, str]) -> "WorkerEnvironment":
        # Lightning's SLURMEnvironment reads the job's variables, which are not the step's, and wants --ntasks-per-node.
        tasks = int(env["SLURM_STEP_NUM_TASKS"])
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", 1)))
        if tasks % nodes:
            raise RMTError(f"srun started {tasks} tasks on {nodes} nodes: give each as many, by --ntasks-per-node")
        hosts = env.get("SLURM_STEP_NODELIST", env.get("SLURM_NODELIST", "127.0.0.1"))
        return cls(
            rank=int(env["SLURM_PROCID"]),
            world_size=tasks,
            local_rank=int(env["SLURM_LOCALID"]),
            local_world_size=tasks // nodes,
            node_rank=int(env["SLURM_NODEID"]),
            # The same in every task of a job, and rarely that of another job on the machine.
            port=int(env.get("MASTER_PORT") or 15_000 + int(env["SLURM_JOB_ID"]) % 10_000),
            address=env.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(hosts),
        )

    def environ(self) -> dict[str, str]:
        """The variables from which `from_environ` makes this environment."""
        values = map(str, vars(self).values())
        return {_STARTED: "1", **dict(zip(_VARIABLES, values, strict=True))}
