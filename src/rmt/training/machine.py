"""From a recipe's words to a device, an arithmetic and a Lightning Trainer."""

import contextlib
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from rmt.errors import RMTError
from rmt.recipes.recipe import Recipe
from rmt.training.checkpoints.io import AtomicCheckpointIO
from rmt.training.distributed.fsdp import ShardedStrategy
from rmt.training.distributed.processes import world_size

_LIGHTNING_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(device: str) -> torch.device:
    """`auto` to what there is. Raises RMTError when the named device is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise RMTError("--device cuda: PyTorch sees no CUDA device here; use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise RMTError("--device mps: PyTorch sees no Apple GPU here; use --device cpu")
    if device not in ("cpu", "cuda", "mps"):
        raise RMTError(f"--device {device!r} is none of auto, cpu, cuda, mps")
    return torch.device(device)


def choose_precision(precision: str, device: torch.device) -> str:
    """`auto` to bf16 on CUDA, fp32 elsewhere. Raises RMTError for fp16 on a CPU, which has no arithmetic for it."""
    if precision == "auto":
        return "bf16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise RMTError("--precision fp16 needs a GPU; use bf16 or fp32 on the CPU")
    return precision


def arithmetic(precision: str, device: torch.device) -> contextlib.AbstractContextManager:
    """The context a forward pass outside the Trainer runs in."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPE[precision])


def build_trainer(
    recipe: Recipe, *, epochs: int, batches_per_epoch: int, callbacks: list[Callback], folder: Path
) -> Trainer:
    """Lightning's Trainer for this process's part, with our checkpoint files and without its own bars and logs."""
    device = choose_device(recipe.device)
    options: dict[str, Any] = {"gradient_clip_val": recipe.clip_grad} if recipe.clip_grad else {}
    options |= _sharing(recipe) if world_size() > 1 else {"devices": 1}
    return Trainer(
        accelerator={"cpu": "cpu", "cuda": "gpu", "mps": "mps"}[device.type],
        precision=_LIGHTNING_PRECISION[choose_precision(recipe.precision, device)],  # type: ignore[arg-type]
        max_epochs=epochs,
        accumulate_grad_batches=recipe.accumulate,
        limit_train_batches=batches_per_epoch,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO(), Joined()],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # our loader deals images to ranks by itself
        **options,
    )


class Joined(LightningEnvironment):
    """Processes that have found each other already (`distributed.launch`); leaves the environment's words alone."""

    def teardown(self) -> None:
        pass


def _sharing(recipe: Recipe) -> dict[str, Any]:
    """The Trainer's options for several processes."""
    # Synchronised statistics are the same everywhere: there is nothing to send. Else the main process's are everyone's.
    strategy = DDPStrategy(broadcast_buffers=not recipe.sync_batchnorm, gradient_as_bucket_view=True)
    places: dict[str, Any] = {"devices": recipe.devices, "num_nodes": recipe.nodes}
    if recipe.strategy == "fsdp":
        return {**places, "strategy": ShardedStrategy(), "inference_mode": False}  # FSDP gathers tensors of its own
    return {**places, "strategy": strategy}
