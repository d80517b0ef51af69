"""Lightning's Trainer, set up as a recipe says."""

import logging
import warnings
from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from rmt.recipes.recipe import Recipe
from rmt.training.checkpoints.io import AtomicCheckpointIO
from rmt.training.distributed.fsdp import FSDPStrategy
from rmt.training.distributed.processes import world_size

_ACCELERATOR = {"cpu": "cpu", "cuda": "gpu", "mps": "mps"}
_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def build_trainer(
    recipe: Recipe,
    *,
    epochs: int,
    batches_per_epoch: int,
    callbacks: list[Callback],
    folder: Path,
    checkpoint_io: AtomicCheckpointIO | None = None,
) -> Trainer:
    """Returns the Trainer of this process, with our checkpoint files and without Lightning's progress bar and loggers.

    Args:
        recipe: a resolved recipe.
        epochs: number of evaluations.
        batches_per_epoch: batches of one device between two evaluations.
        callbacks: what is called around the steps.
        folder: the run's folder.
        checkpoint_io: reads and writes the checkpoints.
    """
    options: dict[str, Any] = {"gradient_clip_val": recipe.clip_grad} if recipe.clip_grad else {}
    options |= _distributed_options(recipe) if world_size() > 1 else {"devices": 1}
    return Trainer(
        accelerator=_ACCELERATOR[recipe.device],
        precision=_PRECISION[recipe.precision],
        max_epochs=epochs,
        accumulate_grad_batches=recipe.accumulate,
        limit_train_batches=batches_per_epoch,
        callbacks=callbacks,
        plugins=[checkpoint_io or AtomicCheckpointIO(), JoinedEnvironment()],
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # our loader divides the images among the ranks itself
        **options,
    )


class JoinedEnvironment(LightningEnvironment):
    """Processes that have joined a process group already (`distributed.launch`). Keeps the environment variables."""

    def teardown(self) -> None:
        pass


def _distributed_options(recipe: Recipe) -> dict[str, Any]:
    """The Trainer's options for several processes."""
    options: dict[str, Any] = {"devices": recipe.devices, "num_nodes": recipe.nodes}
    if recipe.strategy == "fsdp":
        return {**options, "strategy": FSDPStrategy(), "inference_mode": False}  # FSDP creates tensors of its own
    # Synchronised statistics are equal everywhere and need no broadcast; otherwise every process takes rank 0's.
    strategy = DDPStrategy(broadcast_buffers=not recipe.sync_batchnorm, gradient_as_bucket_view=True)
    return {**options, "strategy": strategy}


_IRRELEVANT_WARNINGS = (
    r".*does not have many workers which may be a bottleneck.*",  # `--workers` is the user's choice
    r"This DataLoader will create \d+ worker processes in total.*",  # the same
    r".*Found \d+ module\(s\) in eval mode at the start of training.*",  # the EMA copy
    r".*Checkpoint directory .* exists and is not empty.*",
    r".*GPU available but not used.*",  # `--device` is the user's choice
    r".*`LightningModule\.configure_optimizers` returned `None`.*",
    r".*isinstance\(treespec, LeafSpec\).* is deprecated.*",  # inside Lightning
    r".*`broadcast_buffers` is deprecated.*",  # its successor is missing from the older PyTorch that we allow
    # A depthwise kernel (C, 1, 3, 3) has one memory layout and two ways to write its strides.
    r"Grad strides do not match bucket view strides.*",
    r".*litlogger.*",  # advertising
)


def filter_library_warnings() -> None:
    """Lowers Lightning's information messages and filters the warnings above, each by its text."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in _IRRELEVANT_WARNINGS:
        warnings.filterwarnings("ignore", message=text)
