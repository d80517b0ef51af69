"""The base of every task's LightningModule: seeded steps, EMA weights, loaders, evaluation, checkpoints."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sized
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from lightning.pytorch import LightningModule
from PIL import Image
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from rmt.data.loader import BatchLoader
from rmt.data.randomness import seed_process
from rmt.data.sets import SkipReport
from rmt.errors import RMTError
from rmt.recipes.recipe import Recipe
from rmt.terminal import plural
from rmt.training.batch import peak_lr
from rmt.training.distributed import processes
from rmt.training.distributed.fsdp import FSDPStrategy, apply_fsdp, full_model, unshard
from rmt.training.evaluator import Evaluator, MetricColumns
from rmt.training.nonfinite import MAX_CONSECUTIVE, NonFiniteLoss, save_buffers, zero_loss
from rmt.training.progress import Progress
from rmt.training.schedules import UpdateSchedule, restarted


class TrainingData(Protocol):
    """The opened data of a run. Holds no recipe; methods that need one take the resolved recipe."""

    @property
    def train(self) -> Sized:
        """The training images."""

    @property
    def val(self) -> Sized:
        """The images of the evaluation after each epoch."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the network's outputs."""

    @property
    def skipped(self) -> SkipReport:
        """What was skipped when the data were opened."""

    def preprocessing(self, recipe: Any) -> dict[str, Any]:
        """What a weight file says of the images that the network expects."""

    def batches_per_epoch(self, recipe: Any) -> int:
        """Batches of one device between two evaluations: those of a whole number of weight updates."""

    def train_loader(self, recipe: Any, **options: Any) -> BatchLoader:
        """Shuffled and augmented training images; every batch is a dict with `index` (B,) and `bad`.

        `options` are further arguments of `BatchLoader`: rank and world_size.
        """

    def val_loader(self, recipe: Any, **options: Any) -> BatchLoader:
        """The images of `val`, in order; options as those of `train_loader`."""


RecipeT = TypeVar("RecipeT", bound=Recipe)
DataT = TypeVar("DataT", bound=TrainingData)


def _explained(error: ValueError) -> Exception:
    """The error of a step, as one of the user's where it is one."""
    if "more than 1 value per channel" not in str(error):  # of PyTorch's BatchNorm
        return error
    return RMTError(
        "batch and images are too small for BatchNorm, which sees one value per channel: take a --batch-size of 2 or "
        "more, larger images, or --freeze-batchnorm"
    )


class TrainingModule(LightningModule, ABC, Generic[RecipeT, DataT]):
    """Trains `model` as the recipe says. With `ema_decay` it keeps an EMA copy, which is evaluated, too.

    A task defines the loss of a batch, the evaluator, the optimiser and the schedule.

    Args:
        model: the network.
        recipe: the resolved recipe.
        data: the opened data.
    """

    model: nn.Module
    progress: Progress
    started: bool

    metric_columns: MetricColumns  # of the class, or set by __init__
    draws_areas: bool = False
    """Whether `draw_images` shows classes as coloured areas, which need a legend."""

    def __init__(self, model: nn.Module, recipe: RecipeT, data: DataT) -> None:
        super().__init__()
        self.model = model
        assert recipe.ema_decay != "auto"
        self.ema: ModelEmaV3 | None = None
        if recipe.ema_decay:
            self.ema = ModelEmaV3(model, decay=recipe.ema_decay, use_warmup=recipe.ema_warmup, warmup_power=0.75)
            self.ema.requires_grad_(False)
        self.recipe = recipe
        self.data = data
        self.preprocessing: dict[str, Any] = data.preprocessing(recipe)
        self.batches_per_epoch: int = data.batches_per_epoch(recipe)
        self.lr: float = peak_lr(recipe)
        self.progress = Progress()
        self.print_line: Callable[[str], None] = print
        self.started = False  # whether the Trainer has restored the checkpoint, if any
        self._has_gradients = False  # whether a batch of the current update gave gradients
        self._train_loader: BatchLoader | None = None
        self._val_loader: BatchLoader | None = None
        self.evaluators: nn.ModuleDict = nn.ModuleDict({kind: self.build_evaluator() for kind in self.networks()})

    @abstractmethod
    def batch_loss(self, batch: dict[str, Any]) -> Tensor:
        """Returns the loss of a batch of the training loader."""

    @abstractmethod
    def draw_images(self, batch: dict[str, Any], count: int) -> list[tuple[Image.Image, str]]:
        """Returns the first `count` images of a batch of the training loader, and a caption for each.

        They are drawn with their labels, as the network sees them: after the changes that `batch_loss` makes, with the
        same random numbers.
        """

    @abstractmethod
    def build_evaluator(self) -> Evaluator:
        """Returns the metrics of one network on the validation images."""

    @abstractmethod
    def build_optimizer(self) -> torch.optim.Optimizer:
        """Returns the optimiser, with the peak learning rate `lr`."""

    @abstractmethod
    def build_schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        """Returns an object whose `step_update(update)` sets the learning rate for that number of updates."""

    @property
    def epochs(self) -> int:
        """Number of evaluations, one every `batches_per_epoch` batches; by default the recipe's `epochs`."""
        return self.recipe.epochs  # type: ignore[attr-defined]

    @property
    def iterations(self) -> int:
        """Number of weight updates, if the recipe gives the length in them; otherwise 0."""
        return 0

    def introduction(self) -> list[str]:
        """Returns lines that describe the run, printed before it begins."""
        return [f"{plural(len(self.data.train), 'image')} to train on, {len(self.data.val):,} to evaluate on"]

    def file_facts(self) -> dict[str, Any]:
        """Returns arguments of `save_checkpoint` that do not follow from the network: task, head and its arguments."""
        return {"task": self.recipe.task}

    def warning_line(self, epoch: int, train_loss: float) -> str:
        """Returns a warning after epoch `epoch`, counted from 1, or ""; not called again after the first warning."""
        return ""

    @property
    def updates_per_epoch(self) -> int:
        return self.batches_per_epoch // self.recipe.accumulate

    def networks(self) -> dict[str, nn.Module]:
        """The networks to evaluate: "raw", and "ema" if there are EMA weights."""
        return {"raw": self.model} | ({} if self.ema is None else {"ema": self.ema.module})

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, FSDPStrategy):
            assert self.device_mesh is not None
            for network in self.networks().values():
                apply_fsdp(network, self.device_mesh["data_parallel"])
            if self.ema is not None:
                self.ema.foreach = False  # these kernels do not support sharded tensors

    def on_validation_start(self) -> None:
        for network in self.networks().values():
            unshard(network)

    def on_validation_end(self) -> None:
        for network in self.networks().values():
            unshard(network, False)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.progress.bad_images.update(batch["bad"])
        for kind, network in self.networks().items():
            cast(Evaluator, self.evaluators[kind]).update(network, batch)

    def compute_metrics(self) -> dict[str, dict[str, float]]:
        """Returns the metrics of each set of weights ("raw", "ema"), and clears the evaluators for the next epoch."""
        evaluators = {kind: cast(Evaluator, evaluator) for kind, evaluator in self.evaluators.items()}
        scores = {kind: evaluator.compute() for kind, evaluator in evaluators.items()}
        for evaluator in evaluators.values():
            evaluator.reset()
        return scores

    def gather_full_networks(self) -> None:
        """Gathers sharded networks in the main process, after training. A collective."""
        self.model = full_model(self.model)
        if self.ema is not None:
            self.ema.module = full_model(self.ema.module)

    def train_dataloader(self) -> BatchLoader:
        self._train_loader = self.data.train_loader(self.recipe, **self._shard())
        # Lightning asks for the iterator before its first hook, when `current_epoch` is still wrong after a resume.
        self._train_loader.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return self._train_loader

    def val_dataloader(self) -> BatchLoader:
        self._val_loader = self.data.val_loader(self.recipe, **self._shard())
        return self._val_loader

    def _shard(self) -> dict[str, int]:
        return {"rank": self.global_rank, "world_size": self.trainer.world_size}

    def on_train_epoch_start(self) -> None:
        assert self._train_loader is not None
        self._train_loader.set_epoch(self.current_epoch)

    def close_loaders(self) -> None:
        """Ends the worker processes of the loaders."""
        for loader in (self._train_loader, self._val_loader):
            if loader is not None:
                loader.close()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        # Drop path, dropout and mixing use the global generators: seeded here, they repeat after a resume.
        seed = (self.recipe.seed, self.current_epoch, batch_idx, self.global_rank)
        skips = self.recipe.on_nan == "skip"
        restore = save_buffers(self.model) if skips else None
        seed_process(*seed)
        try:
            loss = self.batch_loss(batch)
        except ValueError as error:
            raise _explained(error) from error
        value = processes.all_reduce_mean(loss.item())  # all processes must decide the same
        self.progress.bad_images.update(batch["bad"])
        if math.isfinite(value):
            self.progress.add_loss(value)
            self.progress.skipped_in_a_row = 0
            self._has_gradients = True
            return loss
        trouble = self._diagnose(batch, value, seed)
        if restore is None:
            raise trouble.as_error()
        restore()
        self.progress.skipped_batches += 1
        self.progress.skipped_in_a_row += 1
        if self.progress.skipped_in_a_row >= MAX_CONSECUTIVE:
            raise RMTError(f"{MAX_CONSECUTIVE} batches in a row were skipped; {trouble.as_error()}")
        if self.global_rank == 0:
            self.print_line(f"skipped batch {self.progress.skipped_batches}: {trouble}")
        return zero_loss(self.model)

    def _diagnose(self, batch: dict[str, Any], loss: float, seed: tuple[int, ...]) -> NonFiniteLoss:
        def again() -> Tensor:
            seed_process(*seed)
            return self.batch_loss(batch)

        assert self._train_loader is not None
        trouble = NonFiniteLoss.found(self, batch, loss, self._train_loader.samples.name, again)
        trouble.record(Path(self.trainer.default_root_dir))
        return trouble

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if not self._has_gradients:  # AdamW skips weights without a gradient: no decay, no change of moments
            optimizer.zero_grad(set_to_none=True)

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer()
        scheduler = self._schedule(optimizer)
        self._settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        self.started = True
        # A checkpoint has restored the optimiser's settings with its state: those of the recipe apply.
        for group, settings in zip(self.trainer.optimizers[0].param_groups, self._settings, strict=True):
            group |= settings
        self.lr_scheduler_step(self.trainer.lr_scheduler_configs[0].scheduler, None)

    def _schedule(self, optimizer: torch.optim.Optimizer) -> Any:
        recipe = self.recipe
        if not recipe.restart_update:
            return self.build_schedule(optimizer)
        total, end = self.epochs * self.updates_per_epoch, getattr(recipe, "min_lr", 0.0)

        def factor(update: int) -> float:
            return restarted(update, recipe.restart_update, total, recipe.restart_lr, end) / self.lr if self.lr else 0.0

        return UpdateSchedule(optimizer, factor)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        scheduler.step_update(self.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None and self._has_gradients:
            self.ema.update(self.model, step=self.global_step + 1 if self.recipe.ema_warmup else None)
        self._has_gradients = False

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.progress.bad_images = {
            name: reason for part in processes.all_gather(self.progress.bad_images) for name, reason in part.items()
        }
        checkpoint["rmt"] = {
            "recipe": self.recipe.as_dict(),
            "progress": self.progress.state_dict(),
            "folder": str(Path.cwd()),  # that relative paths of the recipe start from
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.progress = Progress.from_state_dict(checkpoint["rmt"]["progress"])
