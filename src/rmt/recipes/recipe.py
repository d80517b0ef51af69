"""The fields that the recipes of all tasks share.

A recipe is a frozen dataclass that describes a training run. Each field is one option of `rmt train` (`--batch-size
64`, `--class-weights`), and the text under it is that option's help. `dataclasses.replace(quickstart(), epochs=3)`
makes another recipe.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

from rmt.recipes.field_types import describe_type, has_type
from rmt.recipes.model_args import parse_model_args

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Strategy = Literal["auto", "ddp", "fsdp"]
OnNan = Literal["stop", "skip"]


@dataclass(frozen=True)
class Limit:
    """The numbers that a field allows, in the field's annotation; `text` is the message for others."""

    allows: Callable[[float], bool]
    text: str


AT_LEAST_1 = Limit(lambda value: value >= 1, "must be at least 1, not {}")
NOT_NEGATIVE = Limit(lambda value: value >= 0, "must not be negative, and is {}")


def at_most(most: int) -> Limit:
    """A bound on what a number in a file may ask for."""
    return Limit(lambda value: value <= most, f"must be at most {most:,}, not {{}}")


MAX_SIDE = at_most(8192)
"""Of images in pixels, as `rmt.model.metadata` bounds it."""
MAX_PROCESSES = at_most(1024)
Positive = Annotated[int, AT_LEAST_1]
NonNegative = Annotated[int, NOT_NEGATIVE]
NonNegativeFloat = Annotated[float, NOT_NEGATIVE]
Pixels = Annotated[int, Limit(lambda value: value >= 32, "must be at least 32, not {}"), MAX_SIDE]
Fraction = Annotated[float, Limit(lambda value: 0 <= value <= 1, "must lie in [0, 1], not {:g}")]
BELOW_1 = Limit(lambda value: 0 <= value < 1, "must lie in [0, 1), not {:g}")
PositiveFraction = Annotated[float, Limit(lambda value: 0 < value <= 1, "must lie in (0, 1], not {:g}")]

AUTO: Any = "auto"
"""The value of a field that is chosen when the recipe is resolved."""
if TYPE_CHECKING:  # the types in a resolved recipe, where no field is "auto" any more
    AutoPositive = int
    AutoNonNegative = int
    AutoPixels = int
    AutoFloat = float
    AutoPositiveFloat = float
    AutoFraction = float
    AutoPositiveFraction = float
    AutoInts = tuple[int, ...]
    AutoBool = bool
    AutoFloats = tuple[float, ...]
    AutoWidth = int
    AutoConvs = int
    AutoBoxes = int
    AutoSide = int
    AutoProcesses = int
else:
    AutoPositive = Annotated[int | Literal["auto"], AT_LEAST_1]
    AutoNonNegative = Annotated[int | Literal["auto"], NOT_NEGATIVE]
    AutoFloat = Annotated[float | Literal["auto"], NOT_NEGATIVE]
    AutoWidth = Annotated[int | Literal["auto"], AT_LEAST_1, at_most(16_384)]
    AutoConvs = Annotated[int | Literal["auto"], NOT_NEGATIVE, at_most(64)]
    AutoBoxes = Annotated[int | Literal["auto"], AT_LEAST_1, at_most(100_000)]
    AutoProcesses = Annotated[int | Literal["auto"], NOT_NEGATIVE, MAX_PROCESSES]
    AutoSide = Annotated[int | Literal["auto"], NOT_NEGATIVE, MAX_SIDE]
    AutoPixels = Annotated[int | Literal["auto"], *Pixels.__metadata__]
    AutoPositiveFloat = Annotated[float | Literal["auto"], Limit(lambda value: value > 0, "must be positive, not {}")]
    AutoFraction = Annotated[float | Literal["auto"], *Fraction.__metadata__]
    AutoPositiveFraction = Annotated[float | Literal["auto"], *PositiveFraction.__metadata__]
    AutoInts = tuple[int, ...] | Literal["auto"]
    AutoBool = bool | Literal["auto"]
    AutoFloats = tuple[float, ...] | Literal["auto"]

#: The recipe class of each task. A class that sets `task` registers itself when it is defined.
_CLASSES: dict[str, type["Recipe"]] = {}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training run: the fields of all tasks, such as network, data, batch, learning rate and devices.

    Each task adds its own. The reference of recipes describes every field. Fields are keywords; `name` must be given.
    """

    task: ClassVar[str]
    open_values: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("model", "minutes", "batch_size", "clip_grad", "drop_path", "ema_decay"), "auto"),
        **dict.fromkeys(("device", "devices", "strategy", "precision", "workers"), "auto"),
        "nodes": 0,
    }
    """Values that mean "decide when the recipe is resolved"."""
    inherited: ClassVar[tuple[str, ...]] = ()
    """Fields that, if open, are those of the run that `weights` come from, if it was of the same kind."""

    def __init_subclass__(cls) -> None:
        if "task" in cls.__dict__:
            _CLASSES[cls.task] = cls

    name: str
    """Name of the run; its folder is `runs/NAME-TIMESTAMP`."""
    data: str = ""
    """Path or address of the data."""
    output: str = ""
    """Folder of the run, instead of `runs/NAME-TIMESTAMP`. It must be new or empty."""
    model: str = "rmt_tiny"
    """Name of the network: one of RMT's (`rmt info` lists them) or of timm's, e.g. resnet50; `auto`: see the recipe's
    description."""
    model_args: str = ""
    """More keywords of the network, as `key=value,...` or JSON: phases=none,decomposed=[true,true,true,false]. Those of
    the RMT networks are the arguments of `rmt.model.RMT`."""
    weights: str = ""
    """Weights to start from: a `.safetensors` or `.pth` file, ours, the authors' or timm's, or a run folder. The head
    is loaded too if its kind, sizes and classes are the same, otherwise only the backbone. Empty: train from
    scratch."""

    minutes: AutoFloat = 0.0
    """Plan the run to take this many minutes in all: what the recipe leaves open is chosen to fit them, by the data and
    the measured speed of this machine. 0: no plan; `auto`: 15 on a CPU, 60 on a GPU."""
    batch_size: AutoPositive = 128
    """Images per step on one device; `auto`: chosen for the task."""
    accumulate: Positive = 1
    """Gradient accumulation: steps per weight update; the effective batch grows by this factor."""
    effective_batch: NonNegative = 0
    """Images per weight update on all devices together. Each device takes its share, at most `batch_size` at once, and
    accumulates the rest. 0: devices x batch_size x accumulate."""
    lr: NonNegativeFloat = 1e-3
    """Peak learning rate for an effective batch of `lr_base_batch` images."""
    lr_base_batch: NonNegative = 1024
    """Reference batch of the linear scaling rule: peak LR = lr x effective batch / lr_base_batch; 0: no scaling."""
    weight_decay: NonNegativeFloat = 0.05
    """AdamW's weight decay."""
    layer_decay: PositiveFraction = 1.0
    """Layer-wise LR decay: each layer's LR is this times that of the layer above; everything on top of the backbone
    counts as one layer. 1: none."""
    frozen_stages: NonNegative = 0
    """Stages of the backbone, from the stem on, whose weights and statistics stay as they are at the start: 1 is the
    stem and the first stage; 0: none."""
    clip_grad: AutoFloat = 0.0
    """Clip gradients to this norm; 0: no clipping; `auto`: 5 for small detectors, 1 for others, otherwise 0."""
    drop_path: Annotated[float | Literal["auto"], BELOW_1] = 0.0
    """Stochastic depth rate of the last block; the rates grow linearly from 0. `auto`: that of the network in the paper
    (RMT-T 0.1, S 0.15, B 0.4, L 0.5, RMT-DeiT-S 0.1, RMT-Swin-T 0.2, -S 0.3), and 0 for every other network."""
    ema_decay: Annotated[float | Literal["auto"], BELOW_1] = 0.0
    """Decay per weight update of the exponential moving average (EMA) of the weights; 0: no average; `auto`:
    0.99996^(effective batch / 512)."""
    ema_warmup: bool = False
    """Raise the decay of the EMA from 0: that of update t is at most 1 - t^(-3/4). The average of a short run then
    leaves out the weights that it began with."""
    restart_update: NonNegative = 0
    """Weight update from which the learning rate falls by a cosine from `restart_lr` to the end of the run, instead of
    the schedule before; 0: no restart. `rmt train --resume RUN --minutes N` sets both."""
    restart_lr: NonNegativeFloat = 0.0
    """See `restart_update`."""
    early_stopping: NonNegative = 0
    """Stop after this many evaluations without a better score; 0: never."""

    device: Device = "auto"
    """Device to train on; `auto`: CUDA if available, then MPS, then the CPU."""
    devices: Annotated[int | Literal["auto"], AT_LEAST_1, MAX_PROCESSES] = 1
    """Devices to train on per machine, one process each; `auto`: all GPUs, or as many as torchrun or srun started."""
    nodes: Annotated[int, NOT_NEGATIVE, MAX_PROCESSES] = 0
    """Machines to train on; 0: as many as torchrun or srun started, otherwise this one."""
    strategy: Strategy = "auto"
    """Strategy for several devices: `ddp` copies the network to each, `fsdp` shards it; `auto`: ddp."""
    sync_batchnorm: bool = False
    """BatchNorm statistics over the batches of all devices, not of each device alone."""
    freeze_batchnorm: bool = False
    """Keep the backbone's BatchNorm statistics as they are at the start; scale and shift are still trained, and so is
    BatchNorm in the head of a detector or segmenter."""
    precision: Precision = "auto"
    """Precision of the forward and backward pass; `auto`: bf16 on CUDA, and on a CPU where the plan of a classifier's
    run measures it clearly faster; fp32 elsewhere."""
    grad_checkpointing: bool = False
    """Keep only the inputs of the blocks for the backward pass and recompute the rest: less memory, more time."""
    compile: bool = False
    """Compile the stages of the network (torch.compile, static shapes); the first steps take minutes."""
    workers: AutoProcesses = 2
    """Processes that load images; 0: the training process does; `auto`: one for each core of this machine beside those
    that train, at most 2 for training on a CPU and 16 for each GPU. The result does not depend on it."""
    on_nan: OnNan = "stop"
    """What to do when the loss is not finite: `stop` the run and name the layer and the images, or `skip` that
    batch and count it."""
    seed: NonNegative = 0
    """Seed of all random numbers. Two CPU runs with the same seed are equal bit for bit."""
    profile: bool = False
    """Print how long the parts of a step took: waiting for data, forward, backward, optimiser, saving."""
    show_batch: bool = False
    """Before the first step, draw 16 training images with their labels into `train_batch.png` of the run folder,
    augmented as the network sees them."""
    checkpoint_minutes: NonNegativeFloat = 10.0
    """Minutes between checkpoints within an epoch; 0: only at the end of each epoch."""

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON values, and the task's name."""
        return {"task": self.task, **asdict(self)}

    @property
    def mixes_pairs(self) -> bool:
        """Whether the images of a step are mixed in pairs, so that their number must be even."""
        return False

    def open_fields(self) -> list[str]:
        """The fields that this recipe leaves open."""
        return [name for name in self.open_values if self.is_open(name)]

    def is_open(self, name: str) -> bool:
        """Whether the recipe leaves this field open."""
        return name in self.open_values and getattr(self, name) == self.open_values[name]

    def fill_open(self: "R", **values: Any) -> "R":
        """Returns the recipe with these values in the fields that it leaves open. The other fields are kept."""
        return replace(self, **{name: value for name, value in values.items() if self.is_open(name)})

    def wrong_types(self) -> list[str]:
        """One line for each value that is not of its field's type, such as a text for a number."""
        hints = get_type_hints(type(self), include_extras=True)
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        return [
            f"--{option(name)} must be {describe_type(hints[name])}, not {str(value)[:40]!r}"
            for name, value in values
            if not has_type(value, hints[name])
        ]

    def problems(self) -> list[str]:
        """One line for each impossible value; empty when the recipe can run. All values must be of their types."""
        found = []
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name, None)
            if isinstance(value, float) and not math.isfinite(value):
                found.append(f"--{option(name)} must be a number, not {value}")
            elif isinstance(value, int | float):
                limits = [limit for limit in getattr(hint, "__metadata__", ()) if isinstance(limit, Limit)]
                found += [f"--{option(name)} {limit.text.format(value)}" for limit in limits if not limit.allows(value)]
        try:
            parse_model_args(self.model_args)
        except ValueError as error:
            found.append(f"--model-args {error}")
        if self.strategy == "fsdp" and self.precision == "fp16":
            found.append("--strategy fsdp does not support --precision fp16: take bf16 or fp32")
        if self.compile and self.strategy == "fsdp":
            found.append("--compile does not work with --strategy fsdp, whose collectives break the graph: take ddp")
        if self.on_nan == "skip" and (self.strategy == "fsdp" or self.precision == "fp16"):
            found.append("--on-nan skip works with neither --strategy fsdp nor --precision fp16: take ddp and bf16")
        return found


def from_dict(values: dict[str, Any]) -> Recipe:
    """Returns the recipe of `as_dict`.

    Raises ValueError on an unknown task or field, TypeError on a missing one, and on a value of another type.
    """
    values = dict(values)
    task = values.pop("task", None)
    if not isinstance(task, str) or task not in _CLASSES:
        raise ValueError(f"task {str(task)[:40]!r} is none of {', '.join(_CLASSES)}")
    recipe_class: Any = _CLASSES[task]
    unknown = set(values) - {field.name for field in fields(recipe_class)}
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(map(str, unknown)))[:200]}")
    recipe = recipe_class(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
    if wrong := recipe.wrong_types():
        raise TypeError("; ".join(wrong))
    return recipe


def changes(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """Returns the fields in which two recipes differ: name -> (old, new)."""
    before, after = old.as_dict(), new.as_dict()
    return {key: (before.get(key), after.get(key)) for key in after if before.get(key) != after.get(key)}


R = TypeVar("R", bound=Recipe)


def named(recipe: R, description: str) -> Callable[[], R]:
    """Returns a function for `RECIPES` that returns the recipe; the description is its docstring."""

    def make() -> R:
        return recipe

    make.__name__ = make.__qualname__ = recipe.name.replace("-", "_")
    make.__doc__ = description
    return make


def check_unused(recipe: Recipe, why: str, *names: str) -> list[str]:
    """A line for each of these fields, which have no effect in this recipe, that is neither open nor at its default."""
    defaults = {field.name: field.default for field in fields(recipe)}
    wrong = [name for name in names if getattr(recipe, name) != defaults[name] and not recipe.is_open(name)]
    return [f"--{option(name)} has no effect {why}: leave it at {defaults[name]}" for name in wrong]


def option(field: str) -> str:
    """A field's name on the command line."""
    return field.replace("_", "-")
