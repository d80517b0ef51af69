"""Image classification."""

from rmt.tasks.classify.task import TASK

__all__ = ["TASK"]
