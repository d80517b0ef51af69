"""The part of a trained network that becomes a graph, and its capture by torch.export."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rmt.errors import RMTError
from rmt.export.blocks import rewrite_blocks
from rmt.export.detectors import DenseDetector, TwoStageDetector
from rmt.heads import RetinaNet
from rmt.heads.detection.mask_rcnn import MaskRCNN
from rmt.inference.exported import quiet
from rmt.model import RMT, deploy
from rmt.model.state_dicts import one_line

INPUT = "images"
"""Name of a graph's input: float32 (B, 3, H, W), resized and normalised."""


@dataclass(frozen=True)
class Graph:
    """What is exported.

    Attributes:
        module: images (B, 3, H, W) to one tensor, or a tuple of them.
        outputs: the names of these.
        shape: of the example, (B, 3, H, W).
        dynamic: whether B, H and W are variable; otherwise they are those of `shape`.
        class_dim: the dimension of the first output in which the classes are.
        detections: whether the outputs are detections, as those of `TwoStageDetector`.
    """

    module: nn.Module
    outputs: Sequence[str]
    shape: tuple[int, int, int, int]
    dynamic: bool
    class_dim: int = 1
    detections: bool = False

    @property
    def input_shape(self) -> list[int | None]:
        """The shape of the graph's input; None for a variable size."""
        return [None, self.shape[1], None, None] if self.dynamic else list(self.shape)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """The outputs by name, computed by PyTorch."""
        found = self.module(images)
        return dict(zip(self.outputs, found if isinstance(found, tuple) else (found,), strict=True))

    def capture(self) -> ExportedProgram:
        """Records the module. Raises RMTError if it cannot be recorded."""
        dimension = Dim.DYNAMIC
        shapes = ({0: dimension, 2: dimension, 3: dimension},) if self.dynamic else None
        example = torch.zeros(self.shape)
        try:
            with torch.no_grad(), quiet():
                return torch.export.export(self.module, (example,), dynamic_shapes=shapes)
        except Exception as error:  # by classes of torch._dynamo, which differ between versions
            how = " for any size, leave out --dynamic" if self.dynamic else ""
            raise RMTError(f"this network cannot be exported{how}: {one_line(error)[:300]}") from error


def network_graph(network: nn.Module, size: tuple[int, int], dynamic: bool, *, fused: bool = False) -> Graph:
    """The graph of a trained network in its deployed form.

    Args:
        network: a classifier, a segmenter, or a detector.
        size: height and width of the images; with `dynamic` of the example.
        dynamic: whether the graph takes any batch, height and width.
        fused: see `rewrite_blocks`.
    """
    if isinstance(network, MaskRCNN) and dynamic:
        raise RMTError(
            "--dynamic: two-stage detectors are exported for images of one size, others are padded; leave it out"
        )
    if any(isinstance(module, RMT) for module in network.modules()):
        network = deploy(network)
        if not dynamic:
            rewrite_blocks(network, fused=fused)
    # One image, and one row or column of tokens, would be recorded as special cases.
    shape = (2, 3, max(size[0], 64), max(size[1], 64)) if dynamic else (1, 3, *size)
    if isinstance(network, MaskRCNN):
        detector = TwoStageDetector(network, size).eval()
        return Graph(detector, detector.outputs, shape, dynamic, detections=True)
    if isinstance(network, RetinaNet):
        return Graph(DenseDetector(network), DenseDetector.outputs, shape, dynamic, class_dim=2)
    return Graph(network, ["logits"], shape, dynamic)
