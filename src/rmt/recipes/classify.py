"""The recipe of image classification."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from rmt.recipes.recipe import (
    AUTO,
    MAX_SIDE,
    NOT_NEGATIVE,
    AutoFloat,
    AutoFraction,
    AutoNonNegative,
    AutoPositiveFloat,
    AutoPositiveFraction,
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFraction,
    Recipe,
    check_unused,
    option,
)


@dataclass(frozen=True, kw_only=True)
class ClassifyRecipe(Recipe):
    """Image classification: the common fields, data, schedule, augmentation, mixing and token labels."""

    task: ClassVar[str] = "classify"
    open_values: ClassVar[dict[str, Any]] = {
        **Recipe.open_values,
        **dict.fromkeys(("stream", "loader", "metric", "epoch_repeats", "warmup_epochs", "cooldown_epochs"), "auto"),
        **dict.fromkeys(("optimizer", "crop_padding", "randaugment", "random_erasing", "crop_pct"), "auto"),
        **dict.fromkeys(("image_size", "epochs", "lr", "layer_decay"), 0),
    }

    inherited: ClassVar[tuple[str, ...]] = ("image_size",)

    data: str = "sample"
    """An image folder, a folder or address (https://…, s3://…) of parquet shards or WebDataset tars, or `sample` (the
    built-in subset of Fashion-MNIST)."""
    stream: Literal["auto", "yes", "no"] = "auto"
    """Read shards through a cache of bounded size (`yes`), or copy all of them to this machine (`no`); `auto`: `yes` if
    the copies do not fit the disk."""
    stream_buffer: Positive = 50_000
    """Images of the shuffle buffer when shards are streamed; it consists of whole shards."""
    image_size: Annotated[int, NOT_NEGATIVE, MAX_SIDE] = 224
    """Side in pixels of the square input images; 0: as for the weights, otherwise 224, 96 for rmt_pico, 64 for
    rmt_micro and 32 for rmt_nano."""

    loader: Literal["auto", "pillow", "tensor"] = "pillow"
    """How training images are cropped and resized: by Pillow, or as uint8 tensors, normalised on the device: faster at
    224², with pixels that differ from Pillow's by 0.05 of 255 levels on average. `auto`: tensor, but pillow with
    `token_labels`, `pad_to` or `crop_padding`, which need it. Evaluation uses Pillow."""

    epochs: NonNegative = 300
    """Epochs; 0: as many as suit the number of images, or fit `minutes`."""
    epoch_repeats: AutoPositiveFloat = 1.0
    """Passes over the training images in an epoch, after which the network is evaluated: 0.5 uses half of the images,
    and the next epoch the others. `auto`: 1, or what `minutes` allow."""
    lr: NonNegativeFloat = 1e-3
    """Peak learning rate for an effective batch of `lr_base_batch` images; 0: 5e-4 with weights, 2e-3 without, and
    0.012 or more where rmt_nano and rmt_micro are trained by muon."""
    min_lr: NonNegativeFloat = 1e-5
    """Final learning rate of the cosine schedule, not scaled with the batch."""
    warmup_epochs: AutoFloat = 5.0
    """Epochs of linear warm-up, which count as part of `epochs`; `auto`, or more than `epochs`: a tenth of them, at
    most 5."""
    warmup_lr: NonNegativeFloat = 1e-6
    """Learning rate at the start of the warm-up, not scaled with the batch."""
    cooldown_epochs: AutoNonNegative = 0
    """Last epochs at the minimum learning rate, which count as part of `epochs`; `auto`: a thirtieth of them, at most
    10."""
    optimizer: Literal["auto", "adamw", "muon"] = "adamw"
    """Optimizer; `muon` orthogonalises the updates of the matrices and uses AdamW for the other weights: better than
    AdamW alone in short trainings from scratch. `auto`: muon for rmt_nano and rmt_micro from scratch, otherwise
    adamw."""
    weight_decay: NonNegativeFloat = 0.05
    """Weight decay of the optimizer; norms, biases and layer scales have none."""
    layer_decay: float = 1.0
    """Layer-wise LR decay: each layer's LR is this times that of the layer above. 1: none; 0: 0.75 with weights, else
    1."""

    holdout: Fraction = 0.2
    """Fraction of each class held out for validation when the data have no validation split; at most 1,000 images where
    they have a test split, which is evaluated once, at the end."""
    selection: NonNegativeFloat = 0.0
    """Training images held out to select best on: a count, or a fraction below 1. 0: best is selected on the validation
    images; without a test split its score there is optimistic."""

    metric: Literal["auto", "top1", "macro_recall"] = "top1"
    """Metric that the best weights are selected by, and early stopping watches: top-1 accuracy, or the mean of the
    classes' recalls. `auto`: macro_recall with `class_weights` or `balanced_sampling`, or if the largest class has
    three times the images of the smallest or more."""

    best_tolerance: NonNegativeFloat = 0.0
    """Standard errors by which the score of the best weights may be below the highest one: of the epochs within them
    the latest is taken; 0: the highest score. Scores that differ by less differ by chance, and the highest of many is
    the luckiest one."""

    pad_to: Annotated[int, NOT_NEGATIVE, MAX_SIDE] = 0
    """Pad smaller images with black to this side, in training and evaluation; 0: resize them instead."""
    min_crop: PositiveFraction = 0.08
    """Smallest area of a random crop, as a fraction of the image; not used with `crop_padding`."""
    crop_padding: AutoNonNegative = 0
    """Resize the image to `image_size`, add a black border of this many pixels, and crop a random square of
    `image_size`; for small images, 4 at 32. 0: random resized crops, see `min_crop`. `auto`: an eighth of the side for
    rmt_nano and rmt_micro from scratch, otherwise 0."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    randaugment: str = "rand-m9-mstd0.5-inc1"
    """RandAugment, as timm writes it; empty: none. `auto`: none for rmt_nano and rmt_micro from scratch, otherwise a
    mild one."""
    random_erasing: AutoFraction = 0.25
    """Probability that a rectangle of an image is replaced by noise. `auto`: 0.25 for rmt_nano and rmt_micro from
    scratch in 20 or more passes over the images, otherwise 0."""
    repeated_augmentation: bool = False
    """Repeated augmentation: a third of the images per epoch, each in three views."""
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """Interpolation of the training images; `random`: bilinear or bicubic, and bicubic in evaluation."""
    crop_pct: AutoPositiveFraction = 0.875
    """Side of the centre crop in evaluation, as a fraction of the resized image; `auto`: 1 for rmt_nano and
    rmt_micro from scratch, otherwise 0.875."""

    mixup: NonNegativeFloat = 0.8
    """Mixup: parameter of the beta distribution; 0: none."""
    cutmix: NonNegativeFloat = 1.0
    """CutMix: parameter of the beta distribution; 0: none."""
    mix_switch: Fraction = 0.5
    """Probability of CutMix instead of Mixup when both are on."""
    label_smoothing: Fraction = 0.1
    """Label smoothing."""
    class_weights: bool = False
    """Weight the loss of each class by the inverse of its frequency."""
    balanced_sampling: bool = False
    """Show every class equally often: an epoch repeats the images of small classes and leaves out some of large ones.
    Not for streamed shards."""

    token_labels: str = ""
    """A folder of `rmt token-labels`: train a `_tl` network on a teacher's label maps instead of the labels. Images
    without a map are left out."""
    token_loss: NonNegativeFloat = 0.5
    """With token labels: weight of the token loss."""
    mix_token: NonNegativeFloat = 1.0
    """With token labels: parameter of the beta distribution of MixToken, which replaces Mixup and CutMix; 0: none."""
    ground_truth: Fraction = 0.0
    """With token labels: weight of the true label in the class target, the rest being the label map's, of images whose
    map has this label as its class; LV-ViT's value is 0.5."""
    ground_truth_mismatch: Fraction = 0.1
    """With `ground_truth`: the same weight for images whose map has another class."""
    swap_map_axes: bool = False
    """With token labels: exchange axes as LV-ViT's package does. The crop of a map is (top, left, bottom, right), and
    shears of the image in x move its map in y, and conversely."""

    @property
    def mixes_pairs(self) -> bool:
        return bool(self.mixup or self.cutmix)

    def problems(self) -> list[str]:
        found = super().problems()
        if 0 < self.lr < self.min_lr:
            found.append(f"--min-lr {self.min_lr:g} is above the peak --lr {self.lr:g}")
        if self.cooldown_epochs != AUTO and 0 < self.epochs <= self.cooldown_epochs:
            found.append(f"--cooldown-epochs {self.cooldown_epochs} leaves none of the {self.epochs} epochs")
        if self.image_size and self.image_size < 32:
            found.append(f"--image-size must be at least 32, not {self.image_size}")
        if not 0 <= self.layer_decay <= 1:
            found.append(f"--layer-decay must lie in (0, 1], or be 0 to be chosen; it is {self.layer_decay:g}")
        if self.optimizer == "muon" and self.strategy == "fsdp":
            found.append("--optimizer muon does not work with --strategy fsdp, which divides the matrices: take ddp")
        if self.sync_batchnorm and self.freeze_batchnorm:
            found.append(
                "--sync-batchnorm and --freeze-batchnorm cannot be combined: frozen statistics are never updated"
            )
        if self.loader == "tensor":
            found += [
                f"--loader tensor is not for --{option(name)}: take --loader pillow"
                for name in ("token_labels", "pad_to", "crop_padding")
                if getattr(self, name) and not self.is_open(name)
            ]
        if self.token_labels:
            off = {"mixup": "MixToken takes its place", "cutmix": "MixToken takes its place"}
            off |= dict.fromkeys(("pad_to", "crop_padding"), "a padded border has no labels")
            off |= dict.fromkeys(("class_weights", "balanced_sampling"), "the maps take the labels' place")
            found += [
                f"--{option(name)} must be off with --token-labels: {why}"
                for name, why in off.items()
                if getattr(self, name) and not self.is_open(name)
            ]
            if self.randaugment.startswith("augmix"):
                found.append("--randaugment augmix blends images, which a label map cannot follow: take rand-… instead")
        else:
            found += check_unused(
                self, "without --token-labels", "token_loss", "mix_token", "ground_truth", "swap_map_axes"
            )
        if not self.ground_truth:
            found += check_unused(self, "without --ground-truth", "ground_truth_mismatch")
        if self.mixes_pairs and self.batch_size != AUTO and self.batch_size % 2:
            found.append(f"--batch-size must be even with Mixup or CutMix, and is {self.batch_size}")
        return found
