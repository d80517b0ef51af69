"""What a training run is, as data: frozen dataclasses whose every field has an effect, or is refused where it has none.

Each field is one option of `rmt train` (`--batch-size 64`, `--class-weights`), and the text under it is that option's
help. A recipe is plain Python: `dataclasses.replace(quickstart(), epochs=3)` makes another one.
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Interpolation = Literal["bicubic", "bilinear", "random"]
Strategy = Literal["auto", "ddp", "fsdp"]
OnNan = Literal["stop", "skip"]
Stream = Literal["auto", "yes", "no"]


#: The recipe class of each task. A class that sets `task` registers itself when it is defined.
_CLASSES: dict[str, type["Recipe"]] = {}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What every task's recipe holds: network, data, learning rate, machine. Each task adds its own fields."""

    task: ClassVar[str]
    open_values: ClassVar[dict[str, Any]] = {
        **dict.fromkeys(("model", "device", "devices", "strategy", "precision"), "auto"),
        "nodes": 0,
    }
    """The values with which fields are left open, to be filled in when the recipe is resolved."""

    def __init_subclass__(cls) -> None:
        if "task" in cls.__dict__:
            _CLASSES[cls.task] = cls

    name: str
    """What the run is called: its folder is `runs/NAME-TIMESTAMP`."""
    data: str = ""
    """Where the data are."""
    output: str = ""
    """The run's folder, instead of `runs/NAME-TIMESTAMP`. One that holds files is refused."""
    model: str = "rmt_tiny"
    """The network, by its registered name (`rmt info` lists them); `auto` chooses (see the recipe)."""
    weights: str = ""
    """What to start from: a `.safetensors` or `.pth` file, ours or the authors', or a run folder. The head is taken too
    where kind, sizes and classes are the same, else the backbone alone. Without it training starts from scratch."""

    batch_size: int = 128
    """Images per step on one device."""
    accumulate: int = 1
    """Steps whose gradients are added up before the weights change; the effective batch grows by this factor."""
    effective_batch: int = 0
    """Images per weight update on all devices together: a device takes its share of them, no more than `batch_size` at
    once, and accumulates the rest; 0: as many as devices, `batch_size` and `accumulate` make."""
    lr: float = 1e-3
    """Peak learning rate for an effective batch of `lr_base_batch` images."""
    lr_base_batch: int = 1024
    """The peak learning rate is lr x effective batch / lr_base_batch; 0 takes `lr` as it stands."""
    weight_decay: float = 0.05
    """AdamW's weight decay."""
    clip_grad: float = 0.0
    """Gradients are scaled down to this norm; 0 leaves them."""
    drop_path: float = 0.0
    """Rate of stochastic depth at the last block, growing to it from 0 (METHOD 4: T 0.1, S 0.15, B 0.4, L 0.5)."""
    ema_decay: float = 0.0
    """Decay per weight update of the averaged weights (EMA) kept beside the raw ones; 0 keeps none."""
    early_stopping: int = 0
    """Stop after this many evaluations without a better score; 0 never stops early."""

    device: Device = "auto"
    """Where to compute: `auto` takes CUDA, then Apple's GPU, then the CPU."""
    devices: int | Literal["auto"] = 1
    """Devices of each machine to train on, a process each; `auto` takes all its GPUs, or what torchrun or srun says."""
    nodes: int = 0
    """Machines to train on; 0: as many as torchrun or srun says, else this one."""
    strategy: Strategy = "auto"
    """How several devices share the work: `ddp` keeps the network whole on each, `fsdp` splits it; `auto` is `ddp`."""
    sync_batchnorm: bool = False
    """BatchNorm over the batches of all devices together, not of each alone."""
    freeze_batchnorm: bool = False
    """The network's BatchNorm keeps the statistics it starts with, in training as in evaluation; its scale and shift
    still learn. That of a detector's or a segmenter's head, which starts with none, learns its own."""
    precision: Precision = "auto"
    """Arithmetic of the forward and backward pass: `auto` is bf16 on CUDA and fp32 elsewhere."""
    grad_checkpointing: bool = False
    """Blocks keep only their input for the backward pass and compute the rest again: less memory, more time."""
    compile: bool = False
    """The network's stages are compiled (torch.compile, fixed shapes); the first steps take minutes."""
    workers: int = 2
    """Processes that read and augment images; 0 does it in the training process. Results do not depend on it."""
    on_nan: OnNan = "stop"
    """What a loss that is not finite does: `stop` ends the run and names layer and images; `skip` goes on without that
    batch, and counts it."""
    seed: int = 0
    """Every random draw follows from it: two CPU runs with the same seed agree bit for bit."""
    profile: bool = False
    """Say at the end where a step's time went: data wait, forward, backward, optimiser, saving."""
    checkpoint_minutes: float = 10.0
    """Also save the state between two evaluations once this many minutes have passed; 0 saves at evaluations only."""

    def as_dict(self) -> dict[str, Any]:
        """The recipe as JSON values, the task with it."""
        return {"task": self.task, **asdict(self)}

    def open_fields(self) -> list[str]:
        """The fields that this recipe leaves open."""
        return [name for name, value in self.open_values.items() if getattr(self, name) == value]

    def problems(self) -> list[str]:
        """What is wrong with the values, one line each; empty when the recipe can run."""
        found = [
            f"--{option(field.name)} must be a number, not {value}"
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), float) and not math.isfinite(value)
        ]
        found += below(self, 1, "batch_size", "accumulate")
        if self.devices != "auto":
            found += below(self, 1, "devices")
        found += negative(
            self,
            *("lr", "lr_base_batch", "weight_decay", "clip_grad", "early_stopping", "workers", "checkpoint_minutes"),
            *("effective_batch", "seed", "nodes"),
        )
        for name in ("ema_decay", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                found.append(f"--{option(name)} must lie in [0, 1), not {getattr(self, name):g}")
        if self.strategy == "fsdp" and self.precision == "fp16":
            found.append("--strategy fsdp knows no --precision fp16: take bf16 or fp32")
        if self.compile and self.strategy == "fsdp":
            found.append("--compile does not go with --strategy fsdp, whose gathering breaks the graph: take ddp")
        if self.on_nan == "skip" and (self.strategy == "fsdp" or self.precision == "fp16"):
            found.append("--on-nan skip works with neither --strategy fsdp nor --precision fp16: take ddp and bf16")
        return found


def from_dict(values: dict[str, Any]) -> Recipe:
    """The recipe that `as_dict` wrote. Raises ValueError on an unknown task or field, TypeError on a missing one."""
    values = dict(values)
    task = values.pop("task", None)
    if task not in _CLASSES:
        raise ValueError(f"task {task!r} is none of {', '.join(_CLASSES)}")
    recipe_class: Any = _CLASSES[task]
    unknown = set(values) - {field.name for field in fields(recipe_class)}
    if unknown:
        raise ValueError(f"unknown fields {', '.join(sorted(unknown))}")
    return recipe_class(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def changes(old: Recipe, new: Recipe) -> dict[str, tuple[Any, Any]]:
    """The fields in which two recipes differ: name -> (old, new)."""
    before, after = old.as_dict(), new.as_dict()
    return {key: (before.get(key), after.get(key)) for key in after if before.get(key) != after.get(key)}


def below(recipe: Recipe, least: int, *names: str) -> list[str]:
    """A line for each of these fields that is less than `least`."""
    wrong = [name for name in names if getattr(recipe, name) < least]
    return [f"--{option(name)} must be at least {least}, not {getattr(recipe, name)}" for name in wrong]


def negative(recipe: Recipe, *names: str) -> list[str]:
    """A line for each of these fields that is negative."""
    wrong = [name for name in names if getattr(recipe, name) < 0]
    return [f"--{option(name)} must not be negative, and is {getattr(recipe, name)}" for name in wrong]


def no_share(recipe: Recipe, *names: str) -> list[str]:
    """A line for each of these fields that is no fraction from 0 to 1."""
    wrong = [name for name in names if not 0 <= getattr(recipe, name) <= 1]
    return [f"--{option(name)} must lie in [0, 1], not {getattr(recipe, name):g}" for name in wrong]


def without_effect(recipe: Recipe, why: str, *names: str) -> list[str]:
    """A line for each of these fields, which do nothing in this recipe, that does not stand at its default."""
    defaults = {field.name: field.default for field in fields(recipe)}
    wrong = [name for name in names if getattr(recipe, name) != defaults[name]]
    return [f"--{option(name)} has no effect {why}: leave it at {defaults[name]}" for name in wrong]


def option(field: str) -> str:
    """A field's name on the command line."""
    return field.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class ClassifyRecipe(Recipe):
    """Image classification: the common fields, and how images are drawn, augmented, mixed and judged."""

    task: ClassVar[str] = "classify"
    open_values: ClassVar[dict[str, Any]] = {
        **Recipe.open_values,
        "stream": "auto",
        **dict.fromkeys(("image_size", "epochs", "lr", "layer_decay"), 0),
    }

    data: str = "sample"
    """An image folder, a folder or address (https://…, s3://…) of parquet shards or WebDataset tars, or `sample` (the
    built-in Fashion-MNIST subset)."""
    stream: Stream = "auto"
    """Shards come through a bounded cache (`yes`), or are copied and mapped into memory as a whole (`no`); `auto`
    streams what does not fit the disk."""
    stream_buffer: int = 50_000
    """Images among which the order is random when shards are streamed; whole shards are taken together."""
    image_size: int = 224
    """Side in pixels of the square images the network sees; 0: that of the weights, or one fit for the network."""

    epochs: int = 300
    """Passes over the training images; 0: as many as a set of that size needs."""
    lr: float = 1e-3
    """Peak learning rate for an effective batch of `lr_base_batch` images; 0: 5e-4 with weights, 2e-3 without."""
    min_lr: float = 1e-5
    """Where the cosine ends, whatever the batch."""
    warmup_epochs: float = 5.0
    """Epochs of linear warm-up, counted within `epochs`."""
    warmup_lr: float = 1e-6
    """Where the warm-up starts, whatever the batch."""
    cooldown_epochs: int = 0
    """Last epochs, counted within `epochs`, that stay at the minimum learning rate."""
    weight_decay: float = 0.05
    """AdamW's weight decay; norms, biases and layer scales take none."""
    layer_decay: float = 1.0
    """Factor on the learning rate from a layer to the one below; 1 treats all alike; 0: 0.75 with weights, else 1."""

    holdout: float = 0.2
    """Fraction of each class held out for validation when the data come without a validation split."""
    selection: float = 0.0
    """Images held out of train to choose `best` on: a count, or below 1 a fraction. With 0 it is chosen on the
    validation images themselves, which flatters it."""

    pad_to: int = 0
    """Images smaller than this are padded with black to it, not enlarged, in training and evaluation; 0 never."""
    min_crop: float = 0.08
    """Smallest part of an image's area that a random crop shows."""
    flip: float = 0.5
    """Chance of a horizontal flip."""
    randaugment: str = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment description; empty for none."""
    random_erasing: float = 0.25
    """Chance that a rectangle of an image is replaced by noise."""
    repeated_augmentation: bool = False
    """Show a third of the images per epoch, in three views each (METHOD 5)."""
    interpolation: Interpolation = "bicubic"
    """Resampling of the training images; `random` draws bilinear or bicubic. Evaluation uses bicubic with `random`."""
    crop_pct: float = 0.875
    """Part of the resized image's side that the centre crop of the evaluation keeps."""

    mixup: float = 0.8
    """Beta parameter of Mixup; 0 for none."""
    cutmix: float = 1.0
    """Beta parameter of CutMix; 0 for none."""
    mix_switch: float = 0.5
    """Chance of CutMix rather than Mixup, where both are on."""
    label_smoothing: float = 0.1
    """Share of the target that is spread over all classes."""
    class_weights: bool = False
    """Weigh the loss of each class by the inverse of its frequency."""

    token_labels: str = ""
    """A folder of `rmt token-labels`: the network (a `_tl` one) learns its teacher's dense maps instead of labels."""
    token_loss: float = 0.5
    """With token labels: weight of the tokens' loss beside the class loss."""
    mix_token: float = 1.0
    """With token labels: Beta parameter of MixToken, which takes the place of Mixup and CutMix; 0 for none."""
    ground_truth: float = 0.0
    """With token labels: share of the true label in the class target; the map gives the rest."""

    def problems(self) -> list[str]:
        found = super().problems() + below(self, 1, "stream_buffer")
        found += negative(self, "epochs", "image_size", "pad_to", "min_lr", "warmup_epochs", "warmup_lr")
        found += negative(self, "cooldown_epochs", "selection", "mixup", "cutmix", "token_loss", "mix_token")
        if 0 < self.lr < self.min_lr:
            found.append(f"--min-lr {self.min_lr:g} is above the peak --lr {self.lr:g}")
        if 0 < self.epochs < self.warmup_epochs:
            found.append(
                f"--warmup-epochs {self.warmup_epochs:g} is longer than the whole run of --epochs {self.epochs}: "
                f"take 0 to {self.epochs}"
            )
        if 0 < self.epochs <= self.cooldown_epochs:
            found.append(f"--cooldown-epochs {self.cooldown_epochs} leaves none of the {self.epochs} epochs")
        if self.image_size and self.image_size < 32:
            found.append(f"--image-size must be at least 32, not {self.image_size}")
        if not 0 <= self.layer_decay <= 1:
            found.append(f"--layer-decay must lie in (0, 1], or be 0 to be chosen; it is {self.layer_decay:g}")
        found += no_share(self, "flip", "random_erasing", "mix_switch", "holdout", "label_smoothing", "ground_truth")
        for name in ("min_crop", "crop_pct"):
            if not 0 < getattr(self, name) <= 1:
                found.append(f"--{option(name)} must lie in (0, 1], not {getattr(self, name):g}")
        if self.sync_batchnorm and self.freeze_batchnorm:
            found.append("--sync-batchnorm and --freeze-batchnorm exclude each other: frozen statistics are alike")
        if self.token_labels:
            off = {"mixup": "MixToken takes its place", "cutmix": "MixToken takes its place"}
            off |= {"pad_to": "a padded border has no labels", "class_weights": "the maps take the labels' place"}
            found += [
                f"--{option(name)} must be off with --token-labels: {why}"
                for name, why in off.items()
                if getattr(self, name)
            ]
        else:
            found += without_effect(self, "without --token-labels", "token_loss", "mix_token", "ground_truth")
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            found.append(f"--batch-size must be even with Mixup or CutMix, and is {self.batch_size}")
        return found
