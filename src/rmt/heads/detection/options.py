"""Options of the detectors. The defaults are those of the paper's detectors (Sec. 4.2), which were trained in
MMDetection; torchvision's value is in brackets where it differs."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from rmt.errors import RMTError

_MAY_BE_0 = ("convs", "sampling_ratio", "box_convs", "box_fcs", "mask_convs")
_LEAST = {"score_threshold": -1}  # below every score; others: 0 for floats, 1 for numbers of things
_MOST = {"size_divisor": 256}  # others: 2^20


def _is_possible(name: str, value: Any, default: Any, may_be_none: bool) -> bool:
    """Whether a value is of the type of the default, and in a range in which a detector can run."""
    if value is None:
        return may_be_none
    if isinstance(default, bool | str):
        return isinstance(value, type(default))
    if (
        name in ("image_mean", "image_std")
        and isinstance(default, tuple)
        and (not isinstance(value, list | tuple) or len(value) != 3)
    ):
        return False
    if isinstance(default, Sequence):
        several = isinstance(value, list | tuple) and 0 < len(value) <= 16
        return several and all(_is_possible(name, entry, default[0], False) for entry in value)
    if isinstance(value, bool) or not isinstance(value, int | float if isinstance(default, float) else int):
        return False
    least = 0 if isinstance(default, float) or name in _MAY_BE_0 else 1
    return _LEAST.get(name, least) <= value <= _MOST.get(name, 2**20)  # false for NaN


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Options of all detectors. The defaults are the paper's; in brackets is torchvision's value where it differs.

    Attributes:
        fpn_channels: channels of every level of the FPN and of the heads' input.
        anchor_ratios: heights over widths of the anchors.
        round_anchors: round the corners of the anchors to whole pixels [True].
        score_threshold: lowest score of a detection.
        nms_threshold: IoU from which non-maximum suppression removes the lower score.
        detections: highest number of detections per image.
        image_mean: mean of RGB values in 0…1, with which the detector normalises images.
        image_std: standard deviation of RGB values in 0…1, with which the detector normalises images.
        size_divisor: batches are padded to a height and width that this divides.
    """

    first_stage: ClassVar[int] = 0  # index of the first stage of the backbone that the FPN takes

    fpn_channels: int = 256
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    round_anchors: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN
    image_std: Sequence[float] = IMAGENET_DEFAULT_STD
    size_divisor: int = 32

    def __post_init__(self) -> None:
        for field in fields(self):
            if not _is_possible(field.name, getattr(self, field.name), field.default, "None" in str(field.type)):
                raise RMTError(f"{field.name}={getattr(self, field.name)!r:.40} is out of bounds or of another type")

    @property
    def predicts_masks(self) -> bool:
        """Whether the detector predicts a mask for each box."""
        return False

    def _check_choice(self, name: str, *choices: str) -> None:
        if getattr(self, name) not in choices:
            raise RMTError(f"{name}={getattr(self, name)!r} is not one of {', '.join(choices)}")


@dataclass(frozen=True, kw_only=True)
class RetinaNetOptions(DetectorOptions):
    """RetinaNet on stages 2 to 4 and two coarser levels, strides 8 … 128. In brackets is torchvision's value.

    Attributes:
        convs: convolutions in each of the two branches of the head.
        octave_base: side of the smallest anchor of a level, in strides.
        octave_scales: sizes of anchors per level; the sides are stride · base · 2^(i / scales), i = 0 … scales − 1.
        p6_source: "c5", the last stage, or "p5" [c5, but p5 if the two have as many channels].
        p6_relu: apply a ReLU between P6 and P7 [True].
        normalise_by: "batch": divide losses by the number of positive anchors in the batch; "image": of each image
            [image].
        candidates: boxes kept per level before non-maximum suppression.
    """

    first_stage: ClassVar[int] = 1

    convs: int = 4
    octave_base: float = 4.0
    octave_scales: int = 3
    p6_source: str = "c5"
    p6_relu: bool = False
    normalise_by: str = "batch"
    candidates: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_choice("p6_source", "c5", "p5")
        self._check_choice("normalise_by", "batch", "image")


@dataclass(frozen=True, kw_only=True)
class MaskRCNNOptions(DetectorOptions):
    """Mask R-CNN on all four stages and one coarser level, strides 4 … 64. It is a cascade of one stage.

    `pre_nms` and `post_nms` have one number for training and one for testing; `stages`, `stage_weights` and `box_stds`
    have one entry per stage of the cascade.

    Attributes:
        anchor_scales: sides of the square anchors, in strides.
        pre_nms: proposals kept per level before non-maximum suppression.
        post_nms: proposals kept per image after it [2,000 in training].
        rpn_nms_threshold: IoU from which the proposal with the lower score is removed.
        rpn_batch: anchors per image in the loss of the region proposal network (RPN).
        rpn_beta: β of its smooth L1 box loss, 0 for L1 [1/9].
        aligned: RoIAlign shifts its samples by half a pixel [False].
        sampling_ratio: samples of RoIAlign per bin and side, 0 for as many as the bin has pixels [2].
        rois_per_image: RoIs per image in the loss of a stage.
        positive_fraction: highest fraction of them that is assigned to an object.
        low_quality: minimum IoU of a low-quality match (MMDetection's `min_pos_iou`); None allows none [None].
        box_convs: number of 3×3 convolutions with BatchNorm in the box head.
        box_conv_width: channels of these convolutions.
        box_fcs: number of linear layers after them.
        box_fc_width: width of these layers.
        stages: IoU from which an RoI is assigned to an object, per stage.
        stage_weights: weights of the losses, per stage.
        box_stds: scales of the box deltas (dx, dy, log dw, log dh), per stage.
        box_loss: loss of the boxes: "l1", "smooth_l1" (β 1/9), or "giou" of decoded boxes [smooth_l1].
        box_weight: weight of this loss.
        score_average: average over the stages "logits" (before the softmax) or "probabilities" (after it).
        masks: predict masks. False makes it Faster R-CNN or Cascade R-CNN.
        mask_convs: number of convolutions in the mask head.
        mask_width: channels of these convolutions.
        mask_threshold: probability from which a mask is True; None returns probabilities, as torchvision does [None].
    """

    anchor_scales: Sequence[float] = (8.0,)
    pre_nms: Sequence[int] = (2000, 1000)
    post_nms: Sequence[int] = (1000, 1000)
    rpn_nms_threshold: float = 0.7
    rpn_batch: int = 256
    rpn_beta: float = 0.0
    aligned: bool = True
    sampling_ratio: int = 0
    rois_per_image: int = 512
    positive_fraction: float = 0.25
    low_quality: float | None = 0.5
    box_convs: int = 0
    box_conv_width: int = 256
    box_fcs: int = 2
    box_fc_width: int = 1024
    stages: Sequence[float] = (0.5,)
    stage_weights: Sequence[float] = (1.0,)
    box_stds: Sequence[Sequence[float]] = ((0.1, 0.1, 0.2, 0.2),)
    box_loss: str = "l1"
    box_weight: float = 1.0
    score_average: str = "logits"
    masks: bool = True
    mask_convs: int = 4
    mask_width: int = 256
    mask_threshold: float | None = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not len(self.stages) == len(self.stage_weights) == len(self.box_stds) > 0:
            raise RMTError("stages, stage_weights and box_stds must be of one length, at least 1")
        self._check_choice("box_loss", "l1", "smooth_l1", "giou")
        self._check_choice("score_average", "logits", "probabilities")

    @property
    def predicts_masks(self) -> bool:
        """Whether the detector predicts a mask for each box."""
        return self.masks


@dataclass(frozen=True, kw_only=True)
class CascadeMaskRCNNOptions(MaskRCNNOptions):
    """Cascade Mask R-CNN: three stages, each with its own box head and mask head."""

    post_nms: Sequence[int] = (2000, 1000)
    rpn_beta: float = 1 / 9
    low_quality: float | None = None
    box_convs: int = 4
    box_fcs: int = 1
    stages: Sequence[float] = (0.5, 0.6, 0.7)
    stage_weights: Sequence[float] = (1.0, 0.5, 0.25)
    box_stds: Sequence[Sequence[float]] = ((0.1, 0.1, 0.2, 0.2), (0.05, 0.05, 0.1, 0.1), (0.033, 0.033, 0.067, 0.067))
    box_loss: str = "giou"
    box_weight: float = 10.0
