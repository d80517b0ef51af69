"""The callback that records a run: rows of metrics, the weights after each epoch, early stopping."""

import time
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from rmt.terminal import plural
from rmt.training.checkpoints.weights import WeightFiles
from rmt.training.distributed.fsdp import full_state_dict
from rmt.training.logging.display import Display
from rmt.training.logging.history import History
from rmt.training.module import TrainingModule

ROWS_PER_EPOCH = 20  # of kind "step" in metrics.csv, at most


class Recorder(Callback):
    """Writes metrics and weights, updates the display, and stops early.

    Args:
        history: `metrics.csv` and TensorBoard's events.
        display: the progress bar and the table.
        files: the weight files.
    """

    def __init__(self, history: History, display: Display, files: WeightFiles) -> None:
        self.history = history
        self.display = display
        self.files = files
        self._since = 0.0
        self._lr = 0.0  # of the last update; at its end the schedule has already set the next one

    def on_train_start(self, trainer: Trainer, pl_module: TrainingModule[Any, Any]) -> None:  # type: ignore[override]
        updates = trainer.num_training_batches // trainer.accumulate_grad_batches
        self._row_every = max(1, updates // ROWS_PER_EPOCH)
        # A run that stopped early and was killed before its report only needs the report.
        trainer.should_stop = pl_module.progress.patience_exhausted(pl_module.recipe.early_stopping)
        self._lr = _highest_rate(trainer.optimizers[0])
        self.display.start()
        self._since = time.monotonic()

    def on_before_optimizer_step(  # type: ignore[override]
        self, trainer: Trainer, pl_module: TrainingModule[Any, Any], optimizer: torch.optim.Optimizer
    ) -> None:
        self._lr = _highest_rate(optimizer)

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: Trainer, pl_module: TrainingModule[Any, Any], outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        now = time.monotonic()
        progress = pl_module.progress
        progress.add_time(now - self._since, len(batch["index"]) * trainer.world_size)
        self._since = now
        self.display.step(trainer.current_epoch, batch_idx, progress.loss, self._lr, progress.images_per_s)
        step = trainer.global_step
        updated = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if updated and step % self._row_every == 0:
            self.history.add(
                "step",
                step,
                epoch=trainer.current_epoch + 1,
                lr=self._lr,
                train_loss=progress.pop_row_loss(),
                images_per_s=round(progress.images_per_s, 1),
                seconds=round(progress.seconds, 3),
            )

    def on_validation_start(self, trainer: Trainer, pl_module: TrainingModule[Any, Any]) -> None:  # type: ignore[override]
        self.display.evaluating()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: TrainingModule[Any, Any]) -> None:  # type: ignore[override]
        progress, epoch = pl_module.progress, trainer.current_epoch + 1
        scores = progress.val = pl_module.compute_metrics()
        loss, lr, images_per_s = progress.loss, self._lr, progress.images_per_s
        metric_columns = pl_module.metric_columns
        progress.evaluations = epoch
        for name, score in scores.items():
            progress.best[name].offer(metric_columns.of(score), epoch, metric_columns.margin(score))
        kind, best = progress.best_of_all()
        better = best.epoch == epoch
        raw, ema = scores["raw"], scores.get("ema", {})
        self.history.add(
            "epoch",
            trainer.global_step,
            epoch=epoch,
            lr=lr,
            train_loss=loss,
            **metric_columns.row("val", raw),
            **metric_columns.row("ema_val", ema),
            images_per_s=round(images_per_s, 1),
            seconds=round(progress.seconds, 3),
        )
        self.display.epoch(epoch, loss, scores, lr, images_per_s, progress.epoch_seconds, better)
        networks = pl_module.networks()
        self._save("last", networks["raw"], epoch, raw, weights="raw")
        if "ema" in networks:
            self._save("last-ema", networks["ema"], epoch, scores["ema"], weights="ema")
        if better:
            self._save("best", networks[kind], epoch, scores[kind], weights=kind)
        if not progress.warned and (line := pl_module.warning_line(epoch, loss)):
            progress.warned = True
            self.display.print_line(line)
        patience = pl_module.recipe.early_stopping
        if progress.patience_exhausted(patience):
            self.display.print_line(
                f"stopping early: no better {metric_columns.label} than epoch {best.highest_epoch}'s in "
                f"{plural(patience, 'epoch')}"
            )
            trainer.should_stop = True
        progress.start_epoch()
        self._since = time.monotonic()

    def _save(self, name: str, network: torch.nn.Module, epoch: int, scores: dict[str, float], **facts: Any) -> None:
        self.files.save(name, full_state_dict(network), {"epoch": epoch, **facts, "val": scores})


def _highest_rate(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate of the layers without layer decay."""
    return max(group["lr"] for group in optimizer.param_groups)
