"""Detection and instance segmentation: COCO-format data, RetinaNet, Mask R-CNN, Cascade Mask R-CNN."""

from rmt.tasks.detect.task import TASK

__all__ = ["TASK"]
