"""Image classification as a LightningModule: the loss, the evaluation, and what one epoch leaves behind."""

from typing import Any, cast

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from timm.data.mixup import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from rmt.data.loader import ImageLoader
from rmt.errors import RMTError
from rmt.recipes.schema import ClassifyRecipe
from rmt.tasks.classify_data import ClassifyData
from rmt.training.optimizer import CosineSchedule, build_optimizer
from rmt.training.progress import Progress
from rmt.training.randomness import seed_everything
from rmt.training.scores import Scores


class ClassifyTask(LightningModule):
    """Trains `model` as the recipe says; with `ema_decay` an averaged copy is kept beside it and evaluated like it.

    Args:
        model: images (B, 3, H, W) to logits (B, num_classes).
        recipe: what to do.
        data: the images.
        lr: peak learning rate, scaled with the effective batch already.
        class_weights: (num_classes,) float32 weights of the loss, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: ClassifyRecipe,
        data: ClassifyData,
        *,
        lr: float,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.ema = ModelEmaV3(model, decay=recipe.ema_decay) if recipe.ema_decay else None
        self.recipe = recipe
        self.data = data
        self.lr = lr
        num_classes = len(data.classes)
        self.mix = _build_mix(recipe, num_classes)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.scores = nn.ModuleDict({kind: Scores(num_classes) for kind in self.networks()})
        self.progress = Progress()
        self._train_loader: ImageLoader | None = None
        self._val_loader: ImageLoader | None = None

    def networks(self) -> dict[str, nn.Module]:
        """The networks to judge: the raw weights, and their average if there is one."""
        return {"raw": self.model} | ({} if self.ema is None else {"ema": self.ema.module})

    def train_dataloader(self) -> ImageLoader:
        self._train_loader = self.data.train_loader(self.global_rank, self.trainer.world_size)
        # Lightning asks for the iterator before its first hook, and `current_epoch` lags behind then after a resume.
        self._train_loader.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return self._train_loader

    def val_dataloader(self) -> ImageLoader:
        self._val_loader = self.data.eval_loader(self.data.judge, self.global_rank, self.trainer.world_size)
        return self._val_loader

    def on_train_epoch_start(self) -> None:
        assert self._train_loader is not None
        self._train_loader.set_epoch(self.current_epoch)

    def close_loaders(self) -> None:
        """Ends the processes that read images."""
        for loader in (self._train_loader, self._val_loader):
            if loader is not None:
                loader.close()

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, mixed and smoothed as the recipe says. images (B, 3, H, W), labels (B,)."""
        if self.mix is not None:
            images, targets = self.mix(images.clone(), labels)  # (B, num_classes), smoothed by the mixing itself
            return F.cross_entropy(self.model(images), targets, weight=self.class_weights)
        smoothing = self.recipe.label_smoothing
        return F.cross_entropy(self.model(images), labels, weight=self.class_weights, label_smoothing=smoothing)

    def batch_loss(self, batch: dict[str, Any]) -> Tensor:
        """The loss to train on, of one batch of the training loader."""
        return self.loss(batch["image"], batch["label"])

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        # Drop path, Mixup and CutMix draw from the global generators: seeded here, they repeat after a resume.
        seed_everything(self.recipe.seed, self.current_epoch, batch_idx, self.global_rank)
        loss = self.batch_loss(batch)
        value = loss.item()
        if not torch.isfinite(loss):
            rate = self.optimizers().param_groups[0]["lr"]  # type: ignore[union-attr]
            raise RMTError(
                f"the loss became {value} at epoch {self.current_epoch + 1}, step {self.global_step} "
                f"(learning rate {rate:.2g}): try a lower --lr, --clip-grad 1, or --precision bf16 instead of fp16"
            )
        self.progress.add_loss(value)
        self.progress.bad_images.update(batch["bad"])
        return loss

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.progress.bad_images.update(batch["bad"])
        if not len(batch["label"]):  # every image of the batch was unreadable
            return
        for kind, network in self.networks().items():
            self._scores(kind).update(network(batch["image"]), batch["label"])

    def take_scores(self) -> dict[str, dict[str, float]]:
        """The evaluation's results per set of weights ("raw", "ema"); clears the counters for the next one."""
        if not int(self._scores("raw").count):
            raise RMTError(f"none of the {len(self.data.judge)} images to judge on could be read")
        results = {}
        for kind in self.scores:
            results[kind] = self._scores(kind).compute()
            self._scores(kind).reset()
        return results

    def _scores(self, kind: str) -> Scores:
        return cast(Scores, self.scores[kind])

    def configure_optimizers(self) -> Any:
        optimizer = build_optimizer(self.model, self.recipe, self.lr)
        schedule = CosineSchedule(optimizer, self.recipe, self.data.batches_per_epoch // self.recipe.accumulate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: CosineSchedule, metric: Any) -> None:  # type: ignore[override]
        scheduler.step_update(self.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.model)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rmt"] = {"recipe": self.recipe.as_dict(), "progress": self.progress.state_dict()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.progress = Progress.from_state_dict(checkpoint["rmt"]["progress"])


def _build_mix(recipe: ClassifyRecipe, num_classes: int) -> Mixup | None:
    if not recipe.mixup and not recipe.cutmix:
        return None
    return Mixup(
        mixup_alpha=recipe.mixup,
        cutmix_alpha=recipe.cutmix,
        switch_prob=recipe.mix_switch,
        label_smoothing=recipe.label_smoothing,
        num_classes=num_classes,
    )
