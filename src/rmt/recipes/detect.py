"""The recipe of detection and instance segmentation."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rmt.recipes.recipe import (
    AUTO,
    AutoBool,
    AutoBoxes,
    AutoConvs,
    AutoFloat,
    AutoFloats,
    AutoInts,
    AutoNonNegative,
    AutoPixels,
    AutoPositive,
    AutoPositiveFloat,
    AutoWidth,
    Fraction,
    NonNegative,
    NonNegativeFloat,
    Recipe,
    check_unused,
)

Boxes = Literal["auto", "xywh", "xyxy", "cxcywh", "normalized_xywh", "normalized_xyxy", "normalized_cxcywh"]
Head = Literal["retinanet", "mask_rcnn", "cascade_mask_rcnn"]


@dataclass(frozen=True, kw_only=True)
class DetectRecipe(Recipe):
    """Detection and instance segmentation: the common fields, data, detector, augmentation and schedule."""

    task: ClassVar[str] = "detect"
    open_values: ClassVar[dict[str, Any]] = {
        **Recipe.open_values,
        "epochs": 0,
        **dict.fromkeys(("fpn_channels", "head_convs", "head_width", "box_width", "rois_per_image", "proposals"), AUTO),
        **dict.fromkeys(("anchor_scale", "short_side", "long_side", "train_short_sides", "epoch_repeats"), AUTO),
        **dict.fromkeys(("lr", "lr_steps", "warmup_iterations", "metric", "masks"), AUTO),
    }

    inherited: ClassVar[tuple[str, ...]] = (
        "masks",
        *("fpn_channels", "head_convs", "head_width", "box_width", "rois_per_image", "proposals", "anchor_scale"),
        *("short_side", "long_side", "train_short_sides"),
    )

    data: str = ""
    """Folder of images and annotations: COCO as downloaded (`annotations/instances_train….json`) or as Roboflow exports
    it, Pascal VOC (`Annotations/*.xml`), YOLO (`labels/*.txt`, also named by its `data.yaml`), or labelme; `rmt check`
    shows how it is read."""
    images: str = ""
    """Folder of the training images, for data in another layout than `data`."""
    annotations: str = ""
    """COCO-format JSON file of the training images in `images`."""
    val_images: str = ""
    """Folder of the validation images; empty: that of the training images."""
    val_annotations: str = ""
    """COCO-format JSON file of the validation images; empty: some of the training images are held out."""
    holdout: Fraction = 0.2
    """Fraction of the images held out for validation when the data have no validation split."""
    empty_images: bool = False
    """Train on images without objects, too."""
    crowd_as_objects: bool = False
    """Train on crowd regions (`iscrowd`) and objects marked difficult like on other objects, and count them in
    evaluation: for files of tools that mark every mask as crowd."""
    boxes: Boxes = "auto"
    """Form of the boxes in COCO-format files: x, y, width, height (xywh), two corners (xyxy) or centre, width, height
    (cxcywh), in pixels or (normalized) as shares of the sides of the image. `auto`: xywh in pixels as COCO has it; the
    run does not start if they look like another form."""

    head: Head = "mask_rcnn"
    """Detector on top of the backbone."""
    masks: AutoBool = True
    """Train instance masks; without them (`--no-masks`) mask_rcnn is Faster R-CNN, and cascade_mask_rcnn Cascade R-CNN.
    `auto`: if the head predicts masks and at least half of the training objects have a usable one."""
    fpn_channels: AutoWidth = 256
    """Channels of the feature pyramid network (FPN)."""
    head_convs: AutoConvs = 4
    """3x3 convolutions in each branch of RetinaNet's head, in the mask head, and in the box heads of the cascade."""
    head_width: AutoWidth = 256
    """Channels of the convolutions in the mask head and in the box heads of the cascade."""
    box_width: AutoWidth = 1024
    """Width of the fully connected layers of the box heads."""
    rois_per_image: AutoBoxes = 512
    """Proposals per image that a box head is trained on."""
    proposals: AutoBoxes = 1000
    """Proposals per image that the RPN keeps in training; in evaluation at most 1000."""
    anchor_scale: AutoFloat = 8.0
    """Side of the smallest anchors, in strides: 8 for the RPN, 4 for RetinaNet."""

    short_side: AutoPixels = 800
    """Short side in pixels that images are resized to in evaluation."""
    long_side: AutoPixels = 1333
    """Largest long side in pixels, in training and evaluation."""
    train_short_sides: AutoInts = (800,)
    """Short sides to choose from in training: one for 1x, several for multi-scale training."""
    random_crop: bool = False
    """Crop half of the training images, as in 3x+MS: to 384 to 600 pixels, from a short side of 400 to 600."""
    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Fraction = 0.0
    """Probability of a vertical flip."""
    rotation: NonNegativeFloat = 0.0
    """Rotate training images by a random angle up to this many degrees either way; boxes become the upright ones around
    the rotated boxes, so small angles suit best. 0: none."""
    min_scale: float = 1.0
    """Scale jitter: resize training images by a random factor from min_scale to max_scale, and crop what is larger."""
    max_scale: float = 1.0
    """See `min_scale`."""
    distortion: Fraction = 0.0
    """Probability of each change of brightness, contrast, saturation and hue."""

    epochs: NonNegative = 12
    """Epochs; 0: as many as make about 2,000 weight updates, or fit `minutes`."""
    epoch_repeats: AutoPositiveFloat = 1.0
    """Passes over the training images in an epoch, after which the detector is evaluated: 0.5 uses half of the images,
    and the next epoch the others. `auto`: 1, or what `minutes` allow."""
    batch_size: AutoPositive = 2
    """Images per step on one device; `auto`: 4."""
    lr: AutoFloat = 1e-4
    """Peak learning rate for an effective batch of `lr_base_batch` images."""
    lr_base_batch: NonNegative = 16
    """The peak learning rate is lr x effective batch / lr_base_batch; 0: it is `lr`."""
    lr_steps: AutoFloats = AUTO
    """Epochs after which the learning rate is divided by 10; below 1, parts of the run (0.75: three quarters of
    `epochs`). `auto`: two thirds and eleven twelfths of `epochs`, if another epoch follows."""
    warmup_iterations: AutoNonNegative = 500
    """Weight updates of linear warm-up; `auto`, or as many as the run has: a tenth of the run, at most 200."""
    metric: Literal["auto", "box_ap", "box_ap50", "mask_ap", "mask_ap50"] = "box_ap"
    """Metric that the best weights are selected by, and early stopping watches; `auto`: box_ap."""
    warmup_factor: Fraction = 0.001
    """Factor of the learning rate at the start of the warm-up."""
    decay_norms: bool = False
    """Weight decay for the weights and biases of norms, too, as in RetinaNet."""

    def step_epochs(self) -> tuple[int, ...]:
        """The epochs after which the learning rate is divided by 10, in a run of a known number of epochs."""
        steps = [self.epochs * part / 12 for part in (8, 11)] if self.lr_steps == AUTO else self.lr_steps
        whole = (step * self.epochs if self.lr_steps != AUTO and step < 1 else step for step in steps)
        found = sorted({max(round(step), 1) for step in whole})
        return tuple(step for step in found if self.lr_steps != AUTO or step < self.epochs)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.data and self.annotations:
            found.append("--data and --annotations exclude each other: a folder, or one JSON with --images")
        if bool(self.annotations) != bool(self.images):
            found.append("--annotations and --images belong together")
        if self.val_annotations and not self.annotations:
            found.append("--val-annotations goes with --annotations; a folder (--data) has its own")
        if self.val_images and not self.val_annotations:
            found.append("--val-images goes with --val-annotations")
        if self.val_annotations:
            found += check_unused(self, "where the data have a validation part", "holdout")
        if self.train_short_sides != AUTO and min(self.train_short_sides, default=0) < 32:
            found.append(f"--train-short-sides must be at least 32, not {str(self.train_short_sides)[:60]}")
        if self.lr_steps != AUTO and not all(0 < step < 1 or (step >= 1 and step % 1 == 0) for step in self.lr_steps):
            found.append(
                f"--lr-steps must be whole epochs, or parts of the run between 0 and 1, not {str(self.lr_steps)[:60]}"
            )
        if not 0 < self.min_scale <= self.max_scale:
            found.append(f"--min-scale {self.min_scale:g} must be positive and at most --max-scale {self.max_scale:g}")
        if self.anchor_scale == 0:
            found.append("--anchor-scale must not be 0")
        if self.metric.startswith("mask") and not self.masks:
            found.append(f"--metric {self.metric} needs masks: take box_ap or box_ap50 with --no-masks")
        if self.head == "retinanet":
            if self.masks is True:
                found.append("--no-masks is needed with --head retinanet, which predicts boxes only")
            unused = ("head_width", "box_width", "rois_per_image", "proposals")
            found += check_unused(self, "with --head retinanet", *unused)
        if self.head == "mask_rcnn" and not self.masks:
            found += check_unused(self, "with --head mask_rcnn --no-masks", "head_convs", "head_width")
        return found
