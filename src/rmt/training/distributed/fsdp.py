"""FSDP: weights, gradients and optimiser state divided among the processes, for networks that one device cannot hold.

PyTorch's `fully_shard` (FSDP2) under Lightning's strategy for it. States and weight files hold whole tensors, so the
files of a run are those of DDP.
"""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from rmt.model.rmt import Block
from rmt.training.distributed.processes import world_size

_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ShardedStrategy(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, its states written and read by our `CheckpointIO`."""

    def __init__(self) -> None:
        super().__init__(data_parallel_size=world_size(), tensor_parallel_size=1, save_distributed_checkpoint=False)

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Whole tensors by parameter name; empty but in the main process."""
        assert self.model is not None
        return get_optimizer_state_dict(self.model, getattr(optimizer, "_optimizer", optimizer), options=_WHOLE)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.model is not None
        state = self.checkpoint_io.load_checkpoint(Path(checkpoint_path))
        whole = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, state["state_dict"], options=whole)
        for optimizer, values in zip(self.optimizers, state["optimizer_states"], strict=True):
            set_optimizer_state_dict(self.model, optimizer, optim_state_dict=values, options=whole)
        return state


def shard(model: nn.Module, mesh: DeviceMesh) -> None:
    """Divides the parameters of `model` among the processes, block by block; a whole copy stays in the CPU's memory."""
    model.__dict__["_whole"] = copy.deepcopy(model).cpu()  # not a submodule: its weights are nobody's business
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for method in ("loss", "forward_token_labelling"):  # ways into a network other than `forward`
        if hasattr(model, method):
            register_fsdp_forward_method(model, method)


def whole_state(model: nn.Module) -> dict[str, Tensor]:
    """The state dict with whole tensors; of a sharded model empty but in the main process, and all must ask."""
    if isinstance(model, FSDPModule):
        return cast(dict[str, Tensor], get_model_state_dict(model, options=_WHOLE))
    return model.state_dict()


def whole(model: nn.Module) -> nn.Module:
    """The model itself, or of a sharded one a whole copy, with its weights in the main process; all must ask."""
    if not isinstance(model, FSDPModule):
        return model
    copied, state = cast(nn.Module, model.__dict__["_whole"]), whole_state(model)
    if state:
        copied.load_state_dict(state)
    return copied


def gather_for_evaluation(model: nn.Module, gathered: bool) -> None:
    """Has every process hold all weights, so that none waits for another whose last batch is empty; or no longer."""
    for module in _sharded(model):
        module.set_reshard_after_forward(not gathered, recurse=False)
        if gathered:
            module.unshard()
        else:
            module.reshard()


def _sharded(model: nn.Module) -> Iterator[FSDPModule]:
    return (module for module in model.modules() if isinstance(module, FSDPModule))
