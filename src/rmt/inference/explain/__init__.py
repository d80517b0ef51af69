"""Why a network decided as it did: what its attention and its gradients say about one image, as arrays and a figure."""

from rmt.inference.explain.explanation import Explanation, StageView, explain
from rmt.inference.explain.subject import Subject

__all__ = ["Explanation", "StageView", "Subject", "explain"]
