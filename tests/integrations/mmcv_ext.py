"""A stand-in for `mmcv._ext`: PyPI's onedl-mmcv comes without its compiled operators.

What stock detectors need on a CPU, nms and roi_align, is forwarded to torchvision; any other operator is there by name,
since mmcv looks for all of them when it is imported, and raises when called.
"""

import sys
from types import ModuleType

import torch
from torchvision.ops import nms as torchvision_nms
from torchvision.ops import roi_align


def nms(boxes, scores, *, iou_threshold, offset):
    assert offset == 0, "boxes are continuous here: a width is x2 - x1"
    return torchvision_nms(boxes, scores, iou_threshold)


def roi_align_forward(x, rois, output, argmax_y, argmax_x, *, pool_mode, **sizes):
    assert pool_mode == 1, "averages alone"
    output.copy_(_pool(x, rois, **sizes))


def roi_align_backward(grad, rois, argmax_y, argmax_x, grad_input, *, pool_mode, **sizes):
    with torch.enable_grad():  # pooling is linear in the map, so any map serves
        x = torch.zeros_like(grad_input, requires_grad=True)
        (gradient,) = torch.autograd.grad(_pool(x, rois, **sizes), x, grad)
    grad_input.copy_(gradient)


def _pool(x, rois, *, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned):
    return roi_align(x, rois, (aligned_height, aligned_width), spatial_scale, sampling_ratio, aligned)


class _Missing(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(f"the stand-in for mmcv._ext has no {name}")

        return missing


def install() -> None:
    """Put the stand-in where mmcv will look, unless the real one is there."""
    try:
        import mmcv._ext  # noqa: F401
    except ImportError:
        module = _Missing("mmcv._ext")
        module.nms, module.roi_align_forward, module.roi_align_backward = nms, roi_align_forward, roi_align_backward
        sys.modules["mmcv._ext"] = module
