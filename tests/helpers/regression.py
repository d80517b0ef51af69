"""The smallest task, a regression: it predicts the number that is each image's file name (`0.25.png`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch.utils.data import default_collate
from torchmetrics import MeanMetric
from torchvision.transforms.functional import to_pil_image, to_tensor

from rmt.data.images import read_image
from rmt.data.loader import BatchLoader
from rmt.device import choose_device
from rmt.inference.runtime import TorchRuntime
from rmt.model import create_model, load_checkpoint, read_metadata
from rmt.recipes import Recipe
from rmt.tasks.finish import finish
from rmt.training.evaluator import Evaluator, MetricColumns, evaluate
from rmt.training.module import TrainingModule
from rmt.training.results import summary_lines
from rmt.training.schedules import UpdateSchedule
from rmt.training.task import Task


@dataclass(frozen=True, kw_only=True)
class RegressionRecipe(Recipe):
    task: ClassVar[str] = "regression"
    epochs: int = 3


class Images:
    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.png"))

    def __len__(self):
        return len(self.files)

    def load(self, index):
        return read_image(self.files[index]), float(self.files[index].stem)

    def name(self, index):
        return str(self.files[index])


def transform(sample, index):
    return {"image": to_tensor(sample[0]), "number": torch.tensor(sample[1])}


def collate(samples, indices):
    return default_collate(samples)


class RegressionData:
    classes, skipped = (), {}

    def __init__(self, recipe: RegressionRecipe):
        self.train, self.val = (Images(Path(recipe.data) / split) for split in ("train", "val"))

    def preprocessing(self, recipe):
        return {"size": [32, 32]}

    def batches_per_epoch(self, recipe):
        return len(self.train) // recipe.batch_size // recipe.accumulate * recipe.accumulate

    def train_loader(self, recipe, **options):
        options |= dict(batch_size=recipe.batch_size, drop_last=True, seed=recipe.seed, workers=recipe.workers)
        return BatchLoader(self.train, transform, collate, shuffle=True, **options)

    def val_loader(self, recipe, **options):
        return eval_loader(self.val, workers=recipe.workers, **options)


def eval_loader(images, **options):
    return BatchLoader(images, transform, collate, shuffle=False, batch_size=1, **options)


class RegressionEvaluator(Evaluator):
    def __init__(self, num_images):
        super().__init__(num_images)
        self.metric = MeanMetric()

    def update_metrics(self, network, batch):
        error = network(batch["image"])[:, 0] - batch["number"]  # (B,)
        self.metric.update(100.0 * (error.abs() < 0.1))

    def compute(self):
        self.require_images()
        return {"within": float(self.metric.compute())}


class RegressionModule(TrainingModule[RegressionRecipe, RegressionData]):
    metric_columns = MetricColumns(columns=("within",), best="within", label="within 0.1")

    def batch_loss(self, batch):
        return F.mse_loss(self.model(batch["image"])[:, 0], batch["number"])

    def draw_images(self, batch, count):
        pictures = [to_pil_image(image) for image in batch["image"][:count]]
        return [(picture, f"{number:.3f}") for picture, number in zip(pictures, batch["number"], strict=False)]

    def build_evaluator(self):
        return RegressionEvaluator(len(self.data.val))

    def build_optimizer(self):
        return torch.optim.AdamW(self.model.parameters(), lr=self.lr)

    def build_schedule(self, optimizer):
        return UpdateSchedule(optimizer, lambda update: 1.0)


def build(recipe, data, *, fresh, log):
    return RegressionModule(create_model(recipe.model, num_classes=1), recipe, data)


def evaluate_checkpoint(checkpoint, data, *, device="auto", precision="auto", workers=0):
    images, evaluator = Images(Path(data) / "val"), RegressionEvaluator(0)
    model = create_model(read_metadata(checkpoint)["model"], num_classes=1)
    load_checkpoint(model, checkpoint)
    network = TorchRuntime(model, choose_device(device))
    evaluate({"model": evaluator}, {"model": network}, eval_loader(images, workers=workers), network.device)
    return {**evaluator.compute(), "images": len(images)}


TASK = Task(
    open_data=RegressionData,
    resolve=lambda recipe, data: recipe,
    build=build,
    finish=finish,
    summary=lambda metrics, folder: summary_lines(metrics, folder, [("within 0.1", "val", "within")]),
    evaluate=evaluate_checkpoint,
    describe=lambda result: [f"within 0.1: {result['within']:.2f} % of {result['images']} images"],
)
