"""Training of segmenters: the loss of the heads, AdamW, and a polynomial schedule with warm-up (Sec. 4.3)."""

from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from rmt.data.sets import skip_lines
from rmt.data.transforms import Normalize
from rmt.heads import Segmenter, file_facts
from rmt.heads.segmentation.losses import SegmentationLoss
from rmt.heads.segmentation.sliding import InferenceOptions
from rmt.inference.drawing.masks import class_shares, draw_segmentation
from rmt.inference.segment import inference_from
from rmt.recipes import SegmentRecipe
from rmt.tasks.segment.data import SegmentData
from rmt.tasks.segment.evaluate import SegmentEvaluator
from rmt.terminal import plural
from rmt.training.batch import describe_batch
from rmt.training.evaluator import MetricColumns
from rmt.training.module import TrainingModule
from rmt.training.optimizers import build_adamw
from rmt.training.schedules import UpdateSchedule, poly, warm_up

COLUMNS = {"miou": "mIoU", "macc": "mean acc.", "aacc": "pixel acc."}


class SegmentModule(TrainingModule[SegmentRecipe, SegmentData]):
    """Trains a `Segmenter`; see `TrainingModule`.

    Args:
        model, recipe, data: see `TrainingModule`.
        criterion: logits and masks to a loss; cross-entropy unless given.
    """

    draws_areas = True

    def __init__(
        self,
        model: Segmenter,
        recipe: SegmentRecipe,
        data: SegmentData,
        criterion: SegmentationLoss | None = None,
    ) -> None:
        self.inference: InferenceOptions = inference_from(
            {"preprocessing": data.preprocessing(recipe), "recipe": recipe.as_dict()}
        )
        super().__init__(model, recipe, data)
        second = "miou" if recipe.metric == "aacc" else "aacc"
        self.metric_columns: MetricColumns = MetricColumns(
            columns=tuple(COLUMNS),
            best=recipe.metric,
            label=COLUMNS[recipe.metric],
            second=second,
            second_label=COLUMNS[second],
        )
        self.criterion: SegmentationLoss = criterion or SegmentationLoss()

    @property
    def epochs(self) -> int:
        return self.recipe.iterations // self.recipe.validate_every

    @property
    def iterations(self) -> int:
        return self.recipe.iterations

    def introduction(self) -> list[str]:
        recipe, data = self.recipe, self.data
        return [
            plural(len(data.classes), "class"),
            *data.describe(),
            *skip_lines(data.skipped),
            f"{plural(recipe.iterations, 'iteration')}, {describe_batch(recipe)}, peak learning rate {self.lr:.2e}",
        ]

    def file_facts(self) -> dict[str, Any]:
        return file_facts(cast(Segmenter, self.model))

    def batch_loss(self, batch: dict[str, Any]) -> Tensor:
        images = batch["image"]
        if images.device.type == "cpu":
            # The stem's convolutions are faster: 7 % of a step of rmt_pico with Semantic FPN.
            images = images.contiguous(memory_format=torch.channels_last)
        return cast(Segmenter, self.model).loss(images, batch["mask"], self.criterion)["loss"]

    def draw_images(self, batch: dict[str, Any], count: int) -> list[tuple[Image.Image, str]]:
        classes, normalize = self.data.classes, Normalize(self.preprocessing["mean"], self.preprocessing["std"])
        pixels, masks = normalize.undo(batch["image"][:count]), batch["mask"][:count].to(torch.uint8).numpy()
        return [
            (draw_segmentation(to_pil_image(image), mask, classes), ", ".join(class_shares(mask, classes)))
            for image, mask in zip(pixels, masks, strict=True)
        ]

    def build_evaluator(self) -> SegmentEvaluator:
        classes, images = len(self.data.classes), len(self.data.val)
        return SegmentEvaluator(classes, images, preprocessing=self.preprocessing, inference=self.inference)

    def build_optimizer(self) -> torch.optim.Optimizer:
        return build_adamw(self.model, self.recipe, self.lr)

    def build_schedule(self, optimizer: torch.optim.Optimizer) -> UpdateSchedule:
        recipe, end = self.recipe, self.recipe.min_lr / self.lr if self.lr else 0.0

        def factor(update: int) -> float:
            decay = poly(update, recipe.iterations, recipe.poly_power, end)
            return decay * warm_up(update, recipe.warmup_iterations, recipe.warmup_start)

        return UpdateSchedule(optimizer, factor)
