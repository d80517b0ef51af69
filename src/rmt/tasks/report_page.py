"""The parts of `report.png` that all tasks share: the page, its title, its curves, and bars of the classes."""

from collections.abc import Sequence
from typing import Any, TypeVar

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from rmt.atomic import replace_file
from rmt.data.images import BadImage
from rmt.errors import RMTError
from rmt.inference.explain.reach import StageReach, measure_reach, plot_reach
from rmt.inference.predictor import Predictor
from rmt.inference.runtime import Runtime
from rmt.recipes import Recipe
from rmt.recipes.recipe import option
from rmt.terminal import plural, short
from rmt.training.logging import plots
from rmt.training.module import TrainingModule
from rmt.training.task import FinishedRun

_WIDTH, _TITLE_HEIGHT, _CURVES_HEIGHT = 16, 1.4, 3.6  # inches
_MAX_CLASSES = 40  # bars of `class_bars`
_REACH_IMAGES, _REACH_HEIGHT = 8, 3.9
PredictorT = TypeVar("PredictorT", bound=Predictor)
_AUGMENTATION = (
    *("min_crop", "crop_padding", "randaugment", "random_erasing", "mixup", "cutmix", "label_smoothing"),
    *("random_crop", "min_scale", "max_scale", "min_ratio", "max_ratio", "balanced_crops"),
    *("flip", "vertical_flip", "rotation", "distortion"),
)
_RATIOS = ("min_crop", "min_scale", "max_scale", "min_ratio", "max_ratio")  # 1: nothing is done


class ReportPage:
    """A page with a title and a row of curves, rows that the task draws, and last how far each head looks.

    Args:
        module: the run's module, after training.
        run: its folder and history.
        metrics: the content of its `metrics.json`.
        predictor: of the best weights.
        heights: heights of the task's rows in inches.

    Attributes:
        rows: a subfigure for each of `heights`.
    """

    module: TrainingModule[Any, Any]
    run: FinishedRun
    metrics: dict[str, Any]
    rows: list[Any]

    def __init__(
        self,
        module: TrainingModule[Any, Any],
        run: FinishedRun,
        metrics: dict[str, Any],
        predictor: Predictor,
        heights: Sequence[float],
    ) -> None:
        self.module, self.run, self.metrics = module, run, metrics
        reach = _measured_reach(predictor, module.data.val)
        heights = [_TITLE_HEIGHT, _CURVES_HEIGHT, *heights, *([_REACH_HEIGHT] if reach else [])]
        self.figure: Figure = Figure(figsize=(_WIDTH, sum(heights)), facecolor="white", layout="constrained")
        self.figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, hspace=0.04)  # type: ignore[union-attr, call-arg]
        parts: Any = self.figure.subfigures(len(heights), 1, height_ratios=heights)
        self._title, self._curves, *self.rows = parts
        if reach:
            _draw_reach(self.rows.pop(), reach)

    def title(self, scores: Sequence[tuple[str, str]], label: str) -> None:
        """Recipe and machine on the left; on the right (what, score) pairs after a label."""
        metrics, machine = self.metrics, self.metrics["machine"]
        network = f"{metrics['head']} on {metrics['model']}" if "head" in metrics else metrics["model"]
        epochs = metrics["last"]["epoch"]
        length = plural(metrics["iterations"], "iteration") if "iterations" in metrics else plural(epochs, "epoch")
        facts = (
            f"{network}, {metrics['parameters'] / 1e6:.2f} M parameters · "
            f"{plural(metrics['images']['train'], 'image')}, "
            f"classes: {metrics['classes']} · {length} in {metrics['training_seconds'] / 60:.1f} min on "
            f"{machine['device']} ({machine['precision']}) · seed {metrics['seed']}"
        )
        plots.title(self._title, metrics["recipe"], facts, essentials(self.module.recipe, metrics), scores, label)

    def curves(self, score: str, note: str, loss_note: str, baseline: float | None = None) -> None:
        """Loss, the score that `best` is chosen by, learning rate and speed over epochs or iterations.

        Args:
            score: the name of the score.
            note: which images it is of.
            loss_note: what the training loss contains.
            baseline: the score of always predicting one class, in percent.
        """
        left, middle, right, speed = self._curves.subplots(1, 4, width_ratios=[1.25, 1.25, 1, 0.8])
        updates, best_by = max(self.module.updates_per_epoch, 1), self.module.metric_columns.best
        unit, scale = ("iteration", 1) if self.module.iterations else ("epoch", updates)

        def curve(column: str, kind: str = "epoch") -> plots.Curve:
            steps, values = self.run.history.column(column, kind)
            return [step / scale for step in steps], values

        steps, train = curve("train_loss", "step"), curve("train_loss")
        plots.plot_loss(left, steps, train, curve("val_loss"), curve("ema_val_loss"), note=loss_note, unit=unit)
        best = self.metrics["best"]
        scores = curve(f"val_{best_by}"), curve(f"ema_val_{best_by}")
        point = best["epoch"] * updates / scale, best["val"][best_by]
        plots.plot_accuracy(middle, *scores, point, note, title=f"{score}, %", unit=unit, baseline=baseline)
        plots.plot_learning_rate(right, curve("lr", "step"), unit=unit)
        plots.plot_speed(speed, curve("images_per_s"), unit=unit)

    def save(self) -> None:
        """Writes `report.png` into the run's folder."""
        with replace_file(self.run.folder.report) as draft:
            self.figure.savefig(draft, dpi=100, format="png")


def best_predictor(kind: type[PredictorT], module: TrainingModule[Any, Any], network: Runtime) -> PredictorT:
    """A predictor of a kind around the best weights of a run."""
    recipe = module.recipe
    metadata = {"classes": module.data.classes, "preprocessing": module.preprocessing, "model": recipe.model}
    return kind(network, metadata | {"recipe": recipe.as_dict()})


def essentials(recipe: Recipe, metrics: dict[str, Any]) -> str:
    """The data, weights, batch, learning rate and augmentation of a run, in one line."""
    data = short(str(getattr(recipe, "data", "")) or str(getattr(recipe, "images", "")), 40)
    parts = [f"data {data}", f"weights {short(recipe.weights, 40)}" if recipe.weights else "random weights"]
    parts += [f"batch {metrics['effective_batch']:,}", f"learning rate {metrics['peak_lr']:.2g}"]
    used = {name: getattr(recipe, name, 0) for name in _AUGMENTATION}
    used = {name: value for name, value in used.items() if value and not (name in _RATIOS and value == 1)}
    words = [f"{option(name)} {value:g}" if not isinstance(value, str | bool) else f"{option(name)} {value}"
             for name, value in used.items()]  # fmt: skip
    return short(" · ".join([*parts, f"augmentation: {', '.join(words) or 'none'}"]), 200)


def _measured_reach(predictor: Predictor, images: Any) -> list[StageReach]:
    """How far the heads look on the first of some images, a set with `load`; none for networks of timm."""
    inputs: list[Tensor] = []
    try:
        backbone = predictor.backbone()
    except RMTError:
        return []
    for index in range(min(len(images), 4 * _REACH_IMAGES)):
        try:
            loaded = images.load(index)
        except BadImage:
            continue
        photo = getattr(loaded, "image", loaded)
        inputs += predictor.normalized(predictor.collate([predictor.transform()(photo)]))
        if len(inputs) == _REACH_IMAGES:
            break
    return measure_reach(backbone, [image.to(predictor.device) for image in inputs]) if inputs else []


def _draw_reach(figure: Any, stages: list[StageReach]) -> None:
    """The panels of `plot_reach` in a row of the page."""
    style: Any = dict(x=0.012, ha="left", fontsize=12, fontweight="bold", color=plots.INK)
    title = figure.suptitle("How far each head looks", **style)
    note = (
        f"mean distance of the tokens attended to, on up to {_REACH_IMAGES} validation images; below the line of the "
        "decay alone a head looks nearer than its decay makes it"
    )
    plots.add_note(title, figure, note)
    plot_reach(figure.subplots(1, len(stages), squeeze=False)[0], stages)


def shown_classes(rows: list[Any]) -> list[Any]:
    """The rows that `class_bars` has room for, of rows sorted by score: of very many the first and the last."""
    half = _MAX_CLASSES // 2
    return rows if len(rows) <= _MAX_CLASSES else rows[:half] + rows[-half:]


def class_bars(
    ax: Axes,
    title: str,
    note: str,
    rows: Sequence[tuple[str, float, float | None]],
    dots: Sequence[float] = (),
    colours: Sequence[Any] = (),
) -> None:
    """A bar for each class: (name, score in percent, and a second score drawn as a tick, or None).

    Args:
        dots: a third score of each class, drawn as a dot.
        colours: of the bars, red, green, blue from 0 to 1; one colour for all unless given.
    """
    plots.style_axes(ax)
    plots.set_title(ax, title, note)
    places = range(len(rows))
    names, scores, ticks = zip(*rows, strict=True) if rows else ((), (), ())
    ax.barh(places, scores, color=list(colours) or plots.RAW, height=0.62)
    ax.plot([np.nan if tick is None else tick for tick in ticks], places, "|", color=plots.INK, ms=9, mew=1.5)
    ax.plot(dots, places[: len(dots)], "o", color=plots.EMA, ms=4.5)
    for place, score in zip(places, scores, strict=True):
        ax.text(101, place, f"{score:.1f}", va="center", fontsize=8.5, color=plots.MUTED)
    ax.set_yticks(places, [short(name, 24) for name in names])
    ax.tick_params(axis="y", colors=plots.INK)
    ax.invert_yaxis()
    ax.set_xlim(0, 106)
    ax.grid(axis="y", visible=False)


def bars_height(rows: Sequence[Any]) -> float:
    """The height in inches of a row of the page for `class_bars`."""
    return 1.2 + 0.22 * len(rows)
