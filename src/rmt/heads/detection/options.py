"""What can be set of a detector. The defaults are the paper's (METHOD 6), which ran another framework than torchvision;
where the two differ, torchvision's value stands in brackets."""

from collections.abc import Sequence
from dataclasses import dataclass

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


@dataclass(frozen=True, kw_only=True)
class DetectorOptions:
    """Of every detector.

    Attributes:
        fpn_channels: of every level of the FPN, and of what reads them.
        anchor_ratios: heights over widths.
        round_anchors: round the anchors' corners to whole pixels [True].
        score_threshold, nms_threshold, detections: of the answers; the last per image.
        image_mean, image_std: of RGB values in 0…1; the detector normalises by itself.
        size_divisor: batches are padded to a height and width that this divides.
    """

    fpn_channels: int = 256
    anchor_ratios: Sequence[float] = (0.5, 1.0, 2.0)
    round_anchors: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    image_mean: Sequence[float] = IMAGENET_DEFAULT_MEAN
    image_std: Sequence[float] = IMAGENET_DEFAULT_STD
    size_divisor: int = 32


@dataclass(frozen=True, kw_only=True)
class RetinaNetOptions(DetectorOptions):
    """RetinaNet on stages 2 to 4 and two levels more, strides 8 … 128.

    Attributes:
        convs: of each of the head's two towers.
        octave_base, octave_scales: anchors of side stride · base · 2^(i / scales), i = 0 … scales − 1.
        p6_source: "c5", the last stage itself, or "p5" [c5, but p5 if the two have as many channels].
        p6_relu: a ReLU between P6 and P7 [True].
        normalise_by: "batch": losses over all positive anchors of the batch; "image" [image].
        candidates: kept per level before suppression.
    """

    convs: int = 4
    octave_base: float = 4.0
    octave_scales: int = 3
    p6_source: str = "c5"
    p6_relu: bool = False
    normalise_by: str = "batch"
    candidates: int = 1000


@dataclass(frozen=True, kw_only=True)
class MaskRCNNOptions(DetectorOptions):
    """Mask R-CNN on all four stages and one level more, strides 4 … 64: a cascade of one stage.

    Pairs are of training and testing; tuples of `stages` have one entry for each.

    Attributes:
        anchor_scales: sides of the square anchors, in strides.
        pre_nms, post_nms: proposals per level before and per image after suppression [post_nms 2,000 in training].
        rpn_nms_threshold: overlap from which the less likely proposal goes.
        rpn_batch: anchors per image that count in the proposals' loss.
        rpn_beta: of its smooth L1 box loss, 0 for L1 [1/9].
        aligned, sampling_ratio: of RoIAlign [False, 2].
        rois_per_image, positive_fraction: regions that a stage learns from, and how many of them may show objects.
        low_quality: an object takes the region that overlaps it most if by this much; None: it does not [None].
        box_convs, box_conv_width, box_fcs, box_fc_width: the box head: 3×3 convolutions with BatchNorm, then linears.
        stages: overlap from which a region shows an object, per stage.
        stage_weights: of the stages' losses.
        box_stds: scales of the box deltas (dx, dy, log dw, log dh), per stage.
        box_loss, box_weight: "l1", "smooth_l1" (β 1/9) or "giou" of decoded boxes, and its weight [smooth_l1].
        score_average: over the stages, in testing: "logits" before the softmax, or "probabilities" after it.
        masks: False leaves boxes alone: Faster R-CNN, Cascade R-CNN.
        mask_convs, mask_width: of the mask head.
        mask_threshold: masks become boolean at this probability; None leaves probabilities, as torchvision's [None].
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


@dataclass(frozen=True, kw_only=True)
class CascadeMaskRCNNOptions(MaskRCNNOptions):
    """Cascade Mask R-CNN: three stages, each with box and mask heads of its own."""

    post_nms: Sequence[int] = (2000, 1000)
    rpn_beta: float = 1 / 9
    low_quality: float | None = None
    box_convs: int = 4
    box_fcs: int = 1
    stages: Sequence[float] = (0.5, 0.6, 0.7)
    stage_weights: Sequence[float] = (1.0, 0.5, 0.25)
    box_stds: Sequence[Sequence[float]] = (
        (0.1, 0.1, 0.2, 0.2),
        (0.05, 0.05, 0.1, 0.1),
        (0.033, 0.033, 0.067, 0.067),
    )
    box_loss: str = "giou"
    box_weight: float = 10.0
