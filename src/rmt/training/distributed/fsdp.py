"""FSDP: parameters, gradients and optimiser state sharded over the processes, for networks too large for one device.

PyTorch's `fully_shard` (FSDP2) under Lightning's strategy for it. States and weight files hold full tensors, so that a
run's files are the same as with DDP.
"""

import copy
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict as dcp
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from rmt.model.rmt import Block
from rmt.training.distributed.processes import world_size

_FULL = dcp.StateDictOptions(full_state_dict=True, cpu_offload=True)


class FSDPStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, with states that our `CheckpointIO` writes and reads."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size=world_size(), tensor_parallel_size=1, save_distributed_checkpoint=False)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Full tensors by parameter name in the main process, an empty dict in the others; all must call it."""
        assert self.model is not None
        return dcp.get_optimizer_state_dict(self.model, getattr(optimizer, "_optimizer", optimizer), options=_FULL)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.model is not None
        state = self.checkpoint_io.load_checkpoint(Path(checkpoint_path))
        dcp.set_model_state_dict(self.model, state["state_dict"], options=_FULL)
        for optimizer, values in zip(self.optimizers, state["optimizer_states"], strict=True):
            dcp.set_optimizer_state_dict(self.model, optimizer, optim_state_dict=values, options=_FULL)
        return state


def apply_fsdp(model: nn.Module, mesh: DeviceMesh) -> None:
    """Shards the parameters of `model` over the processes, block by block, and keeps a full copy of it on the CPU."""
    model.__dict__["_full_copy"] = copy.deepcopy(model).cpu()  # no submodule: its weights are not the state dict's
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("loss", "forward_token_labelling"):  # called by the trainer instead of `forward`
        if hasattr(model, method):
            register_fsdp_forward_method(model, method)


def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with full tensors. Of a sharded model: empty but in the main process, and all must call it."""
    if isinstance(model, FSDPModule):
        return cast(dict[str, Tensor], dcp.get_model_state_dict(model, options=_FULL))
    return model.state_dict()


def full_model(model: nn.Module) -> nn.Module:
    """The model itself. Of a sharded one: its full copy, with its weights in the main process; all must call it."""
    if not isinstance(model, FSDPModule):
        return model
    full = cast(nn.Module, model.__dict__["_full_copy"])
    if state := full_state_dict(model):
        full.load_state_dict(state)
    return full


def unshard(model: nn.Module, unsharded: bool = True) -> None:
    """Keeps all parameters of a sharded model in every process, or shards them again.

    Evaluation needs this: a process with fewer batches would not take part in gathering them.
    """
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_reshard_after_forward(not unsharded, recurse=False)
            (module.unshard if unsharded else module.reshard)()
