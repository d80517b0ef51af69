"""Training of detectors: the sum of the losses, AdamW, and a step schedule with warm-up (Sec. 4.2 of the paper)."""

from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from rmt.data.detection.rle import encode
from rmt.heads import file_facts
from rmt.inference.drawing.boxes import draw_boxes, labelled_boxes
from rmt.inference.drawing.sheet import CELL
from rmt.recipes import DetectRecipe
from rmt.tasks.detect.data import DetectData
from rmt.tasks.detect.evaluate import DetectEvaluator
from rmt.terminal import plural
from rmt.training.batch import describe_batch
from rmt.training.evaluator import MetricColumns
from rmt.training.module import TrainingModule
from rmt.training.optimizers import build_adamw
from rmt.training.schedules import UpdateSchedule, step, warm_up

_COLUMNS = {"box_ap": "box AP", "box_ap50": "box AP50", "mask_ap": "mask AP", "mask_ap50": "mask AP50"}


class DetectModule(TrainingModule[DetectRecipe, DetectData]):
    """Trains a detector; see `TrainingModule`."""

    def __init__(self, model: nn.Module, recipe: DetectRecipe, data: DetectData) -> None:
        super().__init__(model, recipe, data)
        second = "box_ap" if recipe.metric == "box_ap50" else "box_ap50"
        self.metric_columns: MetricColumns = MetricColumns(
            columns=tuple(name for name in _COLUMNS if recipe.masks or name.startswith("box")),
            best=recipe.metric,
            label=_COLUMNS[recipe.metric],
            second=second,
            second_label=_COLUMNS[second],
        )

    def introduction(self) -> list[str]:
        recipe, data = self.recipe, self.data
        late = [str(epoch) for epoch in recipe.step_epochs() if epoch >= recipe.epochs]
        unreached = [f"the run ends before --lr-steps {' '.join(late)}: the learning rate stays"] if late else []
        return [
            plural(len(data.classes), "class"),
            *data.describe(),
            f"{plural(recipe.epochs, 'epoch')} of {plural(self.updates_per_epoch, 'update')}, "
            f"{describe_batch(recipe)}, "
            f"peak learning rate {self.lr:.2e}",
            *unreached,
        ]

    def batch_loss(self, batch: dict[str, Any]) -> Tensor:
        return torch.stack(list(self.model(batch["image"], batch["target"]).values())).sum()

    def draw_images(self, batch: dict[str, Any], count: int) -> list[tuple[Image.Image, str]]:
        drawn = []
        for image, target in list(zip(batch["image"], batch["target"], strict=True))[:count]:
            masks = encode(target["masks"].numpy()) if "masks" in target else None
            boxes = labelled_boxes(target["boxes"].numpy(), target["labels"].numpy(), masks, self.data.classes)
            caption = plural(len(boxes), "object")
            drawn.append((draw_boxes(to_pil_image(image), boxes, min_long_side=2 * CELL), caption))
        return drawn

    def build_evaluator(self) -> DetectEvaluator:
        return DetectEvaluator(self.data.val)

    def build_optimizer(self) -> torch.optim.Optimizer:
        return build_adamw(self.model, self.recipe, self.lr)

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> UpdateSchedule:
        recipe = self.recipe
        milestones = [epoch * self.updates_per_epoch for epoch in recipe.step_epochs()]

        def factor(update: int) -> float:
            return step(update, milestones) * warm_up(update, recipe.warmup_iterations, recipe.warmup_factor)

        return UpdateSchedule(optimizer, factor)

    def file_facts(self) -> dict[str, Any]:
        return file_facts(self.model)  # type: ignore[arg-type]
