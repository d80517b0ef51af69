"""Semantic segmentation as a LightningModule: the head's loss, and mean IoU by exact counts."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from rmt.data.sets import skip_lines
from rmt.errors import RMTError
from rmt.heads import Segmenter, file_facts
from rmt.heads.segmentation.sliding import segment
from rmt.inference.segment import inference_from
from rmt.recipes.segment_recipe import SegmentRecipe
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.metrics import Confusion
from rmt.training.batch import batch_in_words
from rmt.training.metric_columns import Measure
from rmt.training.module import TrainingModule
from rmt.training.optimizers import build_adamw
from rmt.training.schedules import UpdateSchedule, poly, warm_up


class SegmentModule(TrainingModule[SegmentRecipe, SegmentData]):
    """Trains a `Segmenter`; see `TrainingModule`."""

    measure = Measure(columns=("miou", "macc", "aacc"), best="miou", label="mIoU")

    def __init__(self, model: Segmenter, recipe: SegmentRecipe, data: SegmentData, *, lr: float) -> None:
        super().__init__(model, recipe, data, lr=lr)
        self.inference = inference_from({"preprocessing": data.preprocessing, "recipe": recipe.as_dict()})
        self.scores = nn.ModuleDict({kind: Confusion(len(data.classes)) for kind in self.networks()})

    @property
    def epochs(self) -> int:
        return self.recipe.iterations // self.recipe.validate_every

    @property
    def iterations(self) -> int:
        return self.recipe.iterations

    def introduction(self) -> list[str]:
        recipe, data = self.recipe, self.data
        return [
            f"{len(data.train):,} images to train on, {len(data.val):,} to judge, {len(data.classes)} classes",
            *skip_lines(data.skipped),
            f"{recipe.iterations:,} iterations, {batch_in_words(recipe)}, peak learning rate {self.lr:.2e}",
        ]

    def file_facts(self) -> dict[str, Any]:
        return file_facts(cast(Segmenter, self.model))

    def batch_loss(self, batch: dict[str, Any]) -> Tensor:
        return cast(Segmenter, self.model).loss(batch["image"], batch["mask"])["loss"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.progress.bad_images.update(batch["bad"])
        for image, mask in zip(batch["image"], batch["mask"], strict=True):
            for kind, network in self.networks().items():
                found = segment(
                    network,
                    image,
                    (mask.shape[0], mask.shape[1]),
                    mean=self.data.preprocessing["mean"],
                    std=self.data.preprocessing["std"],
                    inference=self.inference,
                )
                self._scores(kind).update(found.to(mask.device), mask)

    def take_scores(self) -> dict[str, dict[str, float]]:
        results = {}
        for kind in self.scores:
            results[kind] = self._scores(kind).compute()
            self._scores(kind).reset()
        if not results["raw"]["pixels"]:
            raise RMTError(f"none of the {len(self.data.val)} images to judge on could be read")
        return results

    def _scores(self, kind: str) -> Confusion:
        return cast(Confusion, self.scores[kind])

    def build_optimizer(self) -> torch.optim.Optimizer:
        recipe = self.recipe
        return build_adamw(
            self.model, self.lr, recipe.weight_decay, decay_norms=recipe.decay_norms, fused=recipe.precision != "fp16"
        )

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> UpdateSchedule:
        recipe, end = self.recipe, self.recipe.min_lr / self.lr if self.lr else 0.0

        def factor(update: int) -> float:
            fallen = poly(update, recipe.iterations, recipe.poly_power, end)
            return fallen * warm_up(update, recipe.warmup_iterations, recipe.warmup_start)

        return UpdateSchedule(optimizer, factor)
