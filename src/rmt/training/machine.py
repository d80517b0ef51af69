"""The devices that a run trains on."""

import os
from dataclasses import dataclass
from typing import cast

import torch

from rmt.device import choose_device
from rmt.errors import RMTError
from rmt.recipes.recipe import Device, Recipe
from rmt.training.distributed.environment import WorkerEnvironment


@dataclass(frozen=True)
class Machine:
    """The hardware of a run: device type, devices per node, number of nodes.

    One process trains on each device.
    """

    device: Device
    devices: int
    nodes: int

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    @classmethod
    def detect(cls, recipe: Recipe) -> "Machine":
        """Finds the devices that the recipe asks for.

        What the recipe leaves open is as the launcher (torchrun, srun) says; without one, all GPUs or one CPU of this
        machine. Raises RMTError when recipe and launcher disagree, and when there are fewer GPUs than asked for.
        """
        worker = WorkerEnvironment.from_environ(os.environ)
        device = cast(Device, choose_device(recipe.device).type)
        devices = recipe.devices
        if devices == "auto":
            devices = worker.local_world_size if worker else torch.cuda.device_count() if device == "cuda" else 1
        nodes = recipe.nodes or (worker.nodes if worker else 1)
        if worker and (devices, nodes) != (worker.local_world_size, worker.nodes):
            raise RMTError(
                f"--devices {devices} --nodes {nodes}, but the launcher started {worker.local_world_size} processes on "
                f"each of {worker.nodes} machines: leave both out, or start that many"
            )
        if device == "cuda" and devices > torch.cuda.device_count():
            raise RMTError(f"--devices {devices}: PyTorch sees {torch.cuda.device_count()} GPUs here")
        if devices * nodes > 1 and device == "mps":
            raise RMTError("--device mps trains on one device; take --devices 1")
        if recipe.strategy == "fsdp" and devices * nodes == 1:
            raise RMTError(
                "--strategy fsdp shards a network over devices, and this run has one: add --devices, or drop it"
            )
        return cls(device, devices, nodes)
