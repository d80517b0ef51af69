"""What a detection run is, as data; see `schema.py`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rmt.recipes.recipe import Recipe, below, negative, no_share, without_effect

Head = Literal["retinanet", "mask_rcnn", "cascade_mask_rcnn"]


@dataclass(frozen=True, kw_only=True)
class DetectRecipe(Recipe):
    """Detection and instance segmentation: data in COCO format, the detector, its pipeline and schedule (METHOD 6)."""

    task: ClassVar[str] = "detect"
    open_values: ClassVar[dict[str, Any]] = {**Recipe.open_values, "epochs": 0}

    data: str = ""
    """A COCO folder as downloaded: `train2017`, `val2017`, `annotations/instances_train2017.json` and for val."""
    images: str = ""
    """The folder of the training images, for another layout than `data`'s."""
    annotations: str = ""
    """The COCO-format JSON of the training images, which lie in `images`."""
    val_images: str = ""
    """The folder of the validation images; empty: that of the training images."""
    val_annotations: str = ""
    """The COCO-format JSON of the validation images; empty: a part of the training images is held out."""
    holdout: float = 0.2
    """Fraction of the images held out for validation when `annotations` come without `val_annotations`."""
    empty_images: bool = False
    """Train on images that show no object, too."""

    head: Head = "mask_rcnn"
    """The detector on top of the network."""
    masks: bool = True
    """Learn instance masks; without them mask_rcnn is Faster R-CNN, cascade_mask_rcnn Cascade R-CNN."""
    fpn_channels: int = 256
    """Channels of every level of the feature pyramid."""
    head_convs: int = 4
    """3x3 convolutions in RetinaNet's towers, the mask head, and the cascade's box heads."""
    head_width: int = 256
    """Channels of the mask head's and the cascade's box heads' convolutions."""
    box_width: int = 1024
    """Width of the fully connected layers of the box heads."""
    rois_per_image: int = 512
    """Regions of an image that a box head learns from."""
    proposals: int = 1000
    """Regions of an image that the RPN keeps in training; in testing at most 1000."""
    anchor_scale: float = 8.0
    """Side of the smallest anchors in strides: 8 for the RPN, 4 for RetinaNet; small images have small objects."""

    short_side: int = 800
    """Short side in pixels that images are brought to in evaluation."""
    long_side: int = 1333
    """Longest side in pixels, in training and evaluation."""
    train_short_sides: tuple[int, ...] = (800,)
    """Short sides to draw from in training: one for 1x, several for multi-scale."""
    random_crop: bool = False
    """Pass half of the training images through the crop of 3x+MS: short side 400 to 600, then 384 to 600 a side."""
    flip: float = 0.5
    """Chance of a horizontal flip."""

    epochs: int = 12
    """Passes over the training images; 0: as many as make about 2,000 updates."""
    batch_size: int = 2
    """Images per step on one device."""
    lr: float = 1e-4
    """Peak learning rate for an effective batch of `lr_base_batch` images."""
    lr_base_batch: int = 16
    """The peak learning rate is lr x effective batch / lr_base_batch; 0 takes `lr` as it stands."""
    lr_steps: tuple[int, ...] = (8, 11)
    """Epochs after which the learning rate is divided by 10."""
    warmup_iterations: int = 500
    """Updates of linear warm-up."""
    warmup_factor: float = 0.001
    """Where the warm-up starts, as a part of the learning rate."""
    decay_norms: bool = False
    """Let weight decay reach the norms' weights and biases too, as RetinaNet's does."""

    def problems(self) -> list[str]:
        found = super().problems()
        found += negative(self, "epochs", "warmup_iterations", "head_convs", "anchor_scale")
        found += no_share(self, "flip", "holdout", "warmup_factor")
        found += below(self, 1, "fpn_channels", "head_width", "box_width", "rois_per_image", "proposals")
        found += below(self, 32, "short_side", "long_side")
        if self.data and self.annotations:
            found.append("--data and --annotations exclude each other: a COCO folder, or one JSON with --images")
        if bool(self.annotations) != bool(self.images):
            found.append("--annotations and --images belong together")
        if self.val_annotations and not self.annotations:
            found.append("--val-annotations goes with --annotations; a COCO folder (--data) has its own")
        if self.val_images and not self.val_annotations:
            found.append("--val-images goes with --val-annotations")
        if self.data or self.val_annotations:
            found += without_effect(self, "where the data have a validation part", "holdout")
        if not self.train_short_sides or min(self.train_short_sides) < 32:
            found.append(f"--train-short-sides must be at least 32, not {self.train_short_sides}")
        if any(epoch < 1 for epoch in self.lr_steps):
            found.append(f"--lr-steps must be at least 1, not {self.lr_steps}")
        if self.anchor_scale == 0:
            found.append("--anchor-scale must not be 0")
        if self.head == "retinanet":
            if self.masks:
                found.append("--no-masks is needed with --head retinanet: it finds boxes alone")
            unused = ("head_width", "box_width", "rois_per_image", "proposals")
            found += without_effect(self, "with --head retinanet", *unused)
        if self.head == "mask_rcnn" and not self.masks:
            found += without_effect(self, "with --head mask_rcnn --no-masks", "head_convs", "head_width")
        return found
