"""Semantic segmentation."""

from rmt.tasks.segment.task import TASK

__all__ = ["TASK"]
