"""Training of classifiers: the loss with Mixup and label smoothing, optimiser and schedule (App. B of the paper)."""

from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from timm.data.mixup import Mixup
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from rmt.data.transforms import Normalize
from rmt.recipes import ClassifyRecipe
from rmt.tasks.classify.baseline import MajorityBaseline, baseline_warning
from rmt.tasks.classify.data import ClassifyData
from rmt.tasks.classify.evaluate import ClassifyEvaluator
from rmt.terminal import plural
from rmt.training.batch import describe_batch
from rmt.training.evaluator import MetricColumns
from rmt.training.module import TrainingModule
from rmt.training.optimizers import build_optimizer
from rmt.training.schedules import CosineSchedule


class ClassifyModule(TrainingModule[ClassifyRecipe, ClassifyData]):
    """Trains a classifier; see `TrainingModule`.

    Args:
        model: images (B, 3, H, W) to logits (B, num_classes).
        recipe, data: see `TrainingModule`.
        class_weights: (num_classes,) float32 weights of the loss, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: ClassifyRecipe,
        data: ClassifyData,
        *,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__(model, recipe, data)
        num_classes = len(data.classes)
        self.normalize: Normalize = Normalize(self.preprocessing["mean"], self.preprocessing["std"])
        self.mix: Mixup | None = _build_mix(recipe, num_classes)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights, persistent=False)
        by_recall = recipe.metric == "macro_recall"
        columns = ("loss", "top1", "top5", *(["macro_recall"] if by_recall else []))
        self.metric_columns: MetricColumns = MetricColumns(
            columns, recipe.metric, "macro recall" if by_recall else "top-1", tolerance=recipe.best_tolerance
        )
        self.baseline: MajorityBaseline = MajorityBaseline.of(data.val.labels, num_classes, by_recall=by_recall)

    def introduction(self) -> list[str]:
        recipe, data = self.recipe, self.data
        return [
            plural(len(data.classes), "class"),
            *data.describe(recipe),
            *self._loader_note(),
            *self._metric_note(),
            f"{plural(recipe.epochs, 'epoch')}, {describe_batch(recipe)}, peak learning rate {self.lr:.2e}",
        ]

    def _loader_note(self) -> list[str]:
        """Says that training images are not exactly those of Pillow."""
        if self.recipe.loader == "pillow":
            return []
        return [
            "training images are cropped and resized as tensors, which differs from Pillow by 0.05 of 255 grey levels "
            "on average (docs/scaling.md): --loader pillow uses Pillow"
        ]

    def _metric_note(self) -> list[str]:
        """Says that weighted classes and a best by top-1 contradict each other."""
        option = next((name for name in ("class_weights", "balanced_sampling") if getattr(self.recipe, name)), "")
        if not option or self.recipe.metric != "top1":
            return []
        return [
            f"best is chosen by top-1, which the largest classes decide, in spite of --{option.replace('_', '-')}: "
            "--metric macro_recall gives the classes equal weight"
        ]

    def warning_line(self, epoch: int, train_loss: float) -> str:
        best = self.progress.best_of_all()[1].highest
        return baseline_warning(self.recipe, self.baseline, epoch=epoch, best=best, train_loss=train_loss, lr=self.lr)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy of images (B, 3, H, W), normalised or uint8, and labels (B,), with the recipe's Mixup and
        label smoothing."""
        images, targets = self._mixed(images, labels)
        smoothing = 0.0 if self.mix else self.recipe.label_smoothing
        return F.cross_entropy(self.model(images), targets, weight=self.class_weights, label_smoothing=smoothing)

    def _mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised images, and labels; with Mixup or CutMix targets (B, num_classes), smoothed by Mixup itself."""
        if images.dtype == torch.uint8:
            images = self.normalize.batch(images)
        return (images, labels) if self.mix is None else self.mix(images.clone(), labels)

    def batch_loss(self, batch: dict[str, Any]) -> Tensor:
        return self.loss(batch["image"], batch["label"])

    def draw_images(self, batch: dict[str, Any], count: int) -> list[tuple[Image.Image, str]]:
        images, targets = self._mixed(batch["image"], batch["label"])
        captions = [self._caption(target) for target in targets[:count]]
        return list(zip(map(to_pil_image, self.normalize.undo(images[:count])), captions, strict=True))

    def _caption(self, target: Tensor) -> str:
        """The class of a label, or the classes of a mixed target with their parts."""
        classes, smoothing = self.data.classes, self.recipe.label_smoothing
        if not target.ndim:
            return classes[target]
        parts = (target - smoothing / len(classes)) / (1 - smoothing)
        shown = [label for label in parts.argsort(descending=True).tolist()[:2] if parts[label] >= 0.005]
        if len(shown) == 1:
            return classes[shown[0]]
        return " + ".join(f"{parts[label]:.2f} {classes[label]}" for label in shown)

    def build_evaluator(self) -> ClassifyEvaluator:
        return ClassifyEvaluator(len(self.data.classes), len(self.data.val))

    def build_optimizer(self) -> torch.optim.Optimizer:
        return build_optimizer(self.model, self.recipe, self.lr)

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> CosineSchedule:
        return CosineSchedule(optimizer, self.recipe, self.updates_per_epoch)


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
