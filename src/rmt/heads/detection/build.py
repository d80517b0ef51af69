"""`rmt.detector`: build a detector by name."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from rmt.errors import RMTError
from rmt.heads.detection.mask_rcnn import MaskRCNN
from rmt.heads.detection.options import CascadeMaskRCNNOptions, DetectorOptions, MaskRCNNOptions, RetinaNetOptions
from rmt.heads.detection.retinanet import RetinaNet
from rmt.heads.pyramid import build_pyramid
from rmt.model import RMT

#: Name of a detector -> its class, and the class of its options.
DETECTORS: dict[str, tuple[type[RetinaNet] | type[MaskRCNN], type[DetectorOptions]]] = {
    "retinanet": (RetinaNet, RetinaNetOptions),
    "mask_rcnn": (MaskRCNN, MaskRCNNOptions),
    "cascade_mask_rcnn": (MaskRCNN, CascadeMaskRCNNOptions),
}


def detector(
    head: str,
    backbone: str | RMT = "rmt_small",
    num_classes: int = 80,
    *,
    drop_path_rate: float = 0.0,
    freeze_bn: bool = False,
    backbone_args: Mapping[str, Any] | None = None,
    **options: Any,
) -> RetinaNet | MaskRCNN:
    """Build a detector: `rmt.detector("cascade_mask_rcnn", backbone="rmt_small", num_classes=80)`.

    It has the interface of torchvision's detectors. Images are a list of (3, H, W), RGB in 0…1 (or uint8), of any
    sizes; the detector normalises and pads them but does not resize them, so boxes are always in pixels of the images.

    - Training: `losses = model(images, targets)` is a dict of scalars to be summed; they are weighted already.
      Targets are a list of dicts: `boxes` (N, 4) x1 y1 x2 y2, `labels` (N,) int64 from **0 to K − 1**, and for masks
      `masks` (N, H, W) of 0 and 1. N may be 0.
    - Evaluation: `model(images)` is a list of dicts, highest score first: `boxes` (N, 4), `labels` (N,), `scores`
      (N,), and `masks` (N, 1, H, W), boolean.

    Unlike torchvision's Mask R-CNN, no label is reserved for background.

    Args:
        head: "retinanet", "mask_rcnn" or "cascade_mask_rcnn".
        backbone: name of a network, or a network; its classifier is removed.
        num_classes: number of classes K.
        drop_path_rate: stochastic depth of a backbone given by name; `rmt.model.MAX_DROP_PATH` has the paper's rates.
        freeze_bn: keep the statistics of the backbone's BatchNorms fixed in training, as the authors' released code
            intends but does not do (its check of the class misses synchronised BatchNorms).
        backbone_args: more keywords for a backbone given by name.
        options: see `RetinaNetOptions`, `MaskRCNNOptions` and `CascadeMaskRCNNOptions`. The defaults are the paper's.
    Raises:
        RMTError: no such detector, network or option.
    """
    if head not in DETECTORS:
        raise RMTError(f"no detector named {head!r}; choose one of {', '.join(DETECTORS)}")
    network, options_class = DETECTORS[head]
    known = [field.name for field in fields(options_class)]
    for name in options:
        if name not in known:
            raise RMTError(f"{head} has no option {name!r}; choose from {', '.join(known)}")
    if num_classes < 1:
        raise RMTError(f"num_classes must be at least 1, not {num_classes}")
    pyramid = build_pyramid(
        backbone,
        drop_path_rate=drop_path_rate,
        first=options_class.first_stage,
        freeze_bn=freeze_bn,
        **(backbone_args or {}),
    )
    chosen = options_class(**options)
    model = network(pyramid, num_classes, chosen)  # type: ignore[arg-type]
    model.head_name, model.head_args = head, {**asdict(chosen), "freeze_bn": freeze_bn}
    return model
