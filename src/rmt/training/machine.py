"""From a recipe's words to a Lightning Trainer."""

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy

from rmt.device import choose_device, choose_precision
from rmt.recipes.recipe import Recipe
from rmt.training.checkpoints.io import AtomicCheckpointIO
from rmt.training.distributed.fsdp import FSDPStrategy
from rmt.training.distributed.processes import world_size

_LIGHTNING_PRECISION = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


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
    """Processes that are in a process group already (see `distributed.launch`); keeps the environment variables."""

    def teardown(self) -> None:
        pass


def _sharing(recipe: Recipe) -> dict[str, Any]:
    """The Trainer's options for several processes."""
    # Synchronised statistics are the same everywhere: there is nothing to send. Else the main process's are everyone's.
    strategy = DDPStrategy(broadcast_buffers=not recipe.sync_batchnorm, gradient_as_bucket_view=True)
    places: dict[str, Any] = {"devices": recipe.devices, "num_nodes": recipe.nodes}
    if recipe.strategy == "fsdp":
        return {**places, "strategy": FSDPStrategy(), "inference_mode": False}  # FSDP gathers tensors of its own
    return {**places, "strategy": strategy}
