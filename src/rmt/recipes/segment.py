"""The recipe of semantic segmentation, whose length is given in iterations."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rmt.recipes.recipe import (
    AUTO,
    AutoFloat,
    AutoNonNegative,
    AutoPixels,
    AutoPositive,
    AutoPositiveFloat,
    AutoSide,
    Fraction,
    NonNegative,
    NonNegativeFloat,
    PositiveFraction,
    Recipe,
    check_unused,
    option,
)


@dataclass(frozen=True, kw_only=True)
class SegmentRecipe(Recipe):
    """Semantic segmentation: the common fields, data, head, schedule and augmentation."""

    task: ClassVar[str] = "segment"
    open_values: ClassVar[dict[str, Any]] = {
        **Recipe.open_values,
        **dict.fromkeys(("crop_size", "long_side", "short_side", "min_ratio", "max_ratio", "head_width"), AUTO),
        **dict.fromkeys(("iterations", "validate_every", "warmup_iterations", "lr", "weight_decay", "metric"), AUTO),
    }

    inherited: ClassVar[tuple[str, ...]] = (
        "head_width",
        "crop_size",
        "long_side",
        "short_side",
        "min_ratio",
        "max_ratio",
    )

    data: str = ""
    """ADE20K as downloaded (a folder with `images/{training,validation}` and `annotations/…`), or a folder of your own
    with `images`, `masks` and a class list."""
    classes: str = ""
    """File with one class per line (`NAME`, or `NAME R G B` for masks coded by colour); empty: `classes.txt` or
    ADE20K's `objectInfo150.txt` in the folder of the data."""
    zero_is_ignored: bool = False
    """Mask value 0 means "ignore" and the classes start at 1, as in ADE20K; otherwise they start at 0."""
    holdout: Fraction = 0.2
    """Fraction of the images held out for validation when the data have no validation split."""

    head: Literal["semantic_fpn", "upernet"] = "semantic_fpn"
    """Head on top of the backbone."""
    head_width: AutoSide = 0
    """Channels of the head; 0: 128 for Semantic FPN (whose feature pyramid has twice as many), 512 for UPerNet (whose
    auxiliary head has half as many)."""
    aux_weight: NonNegativeFloat = 0.4
    """Weight of the loss of UPerNet's auxiliary head."""

    focal_gamma: NonNegativeFloat = 0.0
    """Focal loss: multiply the cross-entropy of a pixel by (1 - p)^focal_gamma, p being the probability of its class
    (usually 2); 0: cross-entropy."""
    dice_weight: NonNegativeFloat = 0.0
    """Weight of the Dice loss, which is added to the cross-entropy and counts every class alike; 0: none."""
    class_weights: bool = False
    """Weight the cross-entropy of each class by median frequency / its frequency in the training masks."""
    class_weight_power: NonNegativeFloat = 1.0
    """With class_weights: exponent of the weights. A smaller one predicts rare classes less often; 0.5: square root."""

    batch_size: AutoPositive = 16
    """Crops per step on one device; `auto`: 8."""
    iterations: AutoPositive = 80_000
    """Weight updates; `auto`: 4,000, or as many as fit `minutes`."""
    validate_every: AutoPositive = 8_000
    """Weight updates between two evaluations; must divide `iterations`. `auto`: about an eighth of them."""
    metric: Literal["auto", "miou", "macc", "aacc"] = "miou"
    """Metric that the best weights are selected by, and early stopping watches: mean IoU, mean accuracy of the classes,
    accuracy of the pixels; `auto`: miou."""
    lr: AutoFloat = 1e-4
    """Peak learning rate for an effective batch of `lr_base_batch` images."""
    lr_base_batch: NonNegative = 16
    """The peak learning rate is lr x effective batch / lr_base_batch; 0: it is `lr`."""
    min_lr: NonNegativeFloat = 0.0
    """Final learning rate, not scaled with the batch."""
    poly_power: NonNegativeFloat = 1.0
    """The learning rate is proportional to (1 - iteration / iterations) to this power."""
    warmup_iterations: AutoNonNegative = 0
    """Iterations of linear warm-up, which count as part of `iterations`; `auto`, or as many as `iterations`: a
    twentieth of them, at most 200."""
    warmup_start: Fraction = 1e-6
    """Factor of the learning rate at the start of the warm-up."""
    weight_decay: AutoFloat = 1e-4
    """AdamW's weight decay."""
    decay_norms: bool = True
    """Weight decay for the weights and biases of norms, too."""

    crop_size: AutoPixels = 512
    """Side in pixels of the training crops, and of the windows of `sliding`."""
    long_side: AutoSide = 2048
    """Images are resized to fit into long_side x short_side (or upright), keeping their aspect ratio; 0: never."""
    short_side: AutoSide = 512
    """See `long_side`."""
    min_ratio: AutoPositiveFloat = 0.5
    """In training, long_side and short_side are multiplied by a random factor from min_ratio to max_ratio."""
    max_ratio: AutoPositiveFloat = 2.0
    """See `min_ratio`."""
    max_class_share: PositiveFraction = 0.75
    """Largest part of a crop that one class may fill; up to ten crops are tried. 1: any crop."""
    balanced_crops: Fraction = 0.0
    """Fraction of the training crops that contain a pixel of a class drawn from those in the image, each as likely."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Fraction = 0.0
    """Probability of a vertical flip."""
    rotation: NonNegativeFloat = 0.0
    """Rotate training images by a random angle up to this many degrees either way; 0: none."""
    distortion: Fraction = 0.5
    """Probability of each change of brightness, contrast, saturation and hue."""
    sliding: bool = False
    """Evaluate by sliding windows of `crop_size` instead of whole images."""
    choose_inference: bool = False
    """At the end of the run, evaluate the best weights in the other way, too: whole images, or with `sliding` windows.
    The better way is that of the weight files; `metrics.json` has both scores."""

    def problems(self) -> list[str]:
        found = super().problems()
        if self.head == "semantic_fpn":
            found += check_unused(self, "with --head semantic_fpn", "aux_weight")
        known = self.iterations != AUTO and self.iterations > 0
        if known and self.validate_every != AUTO and self.validate_every > 0 and self.iterations % self.validate_every:
            most = min(self.validate_every, self.iterations)
            fitting = next(count for count in range(most, 0, -1) if self.iterations % count == 0)
            found.append(
                f"--validate-every {self.validate_every} does not divide --iterations {self.iterations}: take {fitting}"
            )
        if self.lr != AUTO and 0 < self.lr < self.min_lr:
            found.append(f"--min-lr {self.min_lr:g} is above the peak --lr {self.lr:g}")
        for name in ("long_side", "short_side"):
            if getattr(self, name) != AUTO and 0 < getattr(self, name) < 32:
                found.append(f"--{option(name)} must be at least 32, or 0 to leave sizes; it is {getattr(self, name)}")
        ratios = {self.min_ratio, self.max_ratio} - {AUTO}
        if not self.long_side and not self.short_side and ratios - {1}:
            found.append("--min-ratio and --max-ratio must be 1 where images are not resized (--long-side 0)")
        if AUTO not in (self.long_side, self.short_side) and bool(self.long_side) != bool(self.short_side):
            found.append("--long-side and --short-side are 0 together, or neither is")
        if AUTO not in (self.min_ratio, self.max_ratio) and not 0 < self.min_ratio <= self.max_ratio:
            found.append(f"--min-ratio {self.min_ratio:g} must be positive and at most --max-ratio {self.max_ratio:g}")
        return found
