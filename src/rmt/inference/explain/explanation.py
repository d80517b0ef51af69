"""`explain`: everything that is shown of one decision, as plain arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from rmt.inference.explain.attention import StageView, rollout, stage_views, strides
from rmt.inference.explain.evidence import grad_cam, integrated_gradients
from rmt.inference.explain.subject import Box, Point, Subject, check_point, nearest_to_middle
from rmt.model.attention_maps import attention_inputs


@dataclass(frozen=True)
class Explanation:
    """One image, one decision, and what led to it. Arrays cover the view, the part of the photo that the network sees.

    Attributes:
        photo: the image, upright RGB.
        draw: see `drawn`.
        view: the part of the photo in pixels of it: left, top, right, bottom. It can reach beyond the photo.
        size: (height, width) of the network's input without padding. All fields of this size cover the view exactly;
            maps of tokens cover it up to their last row and column, which may reach beyond.
        decision: the prediction, in one line.
        target: what the evidence is for: a class, or an object or segment of one.
        at: the point (x, y) of the photo, in pixels, from which the stages look.
        stages: the attention of each stage from that point.
        rollout: (h, w) of the first stage: where the tokens behind the decision come from; sums to 1.
        grad_cam: (h, w), 0…1: the regions that raise the score; of stage `grad_cam_stage`. None without evidence.
        integrated_gradients: (height, width): what each pixel adds to the score. None without evidence.
    """

    photo: Image.Image
    draw: Callable[[], Image.Image] | None
    view: Box
    size: tuple[int, int]
    decision: str
    target: str
    at: Point
    stages: tuple[StageView, ...]
    rollout: np.ndarray
    grad_cam: np.ndarray | None
    grad_cam_stage: int
    integrated_gradients: np.ndarray | None

    @cached_property
    def drawn(self) -> Image.Image:
        """The photo with what was found drawn on it; the photo itself for a classifier."""
        return self.photo if self.draw is None else self.draw()

    @property
    def scale(self) -> float:
        """Pixels of the photo for each pixel of the network's input, along the width."""
        return (self.view[2] - self.view[0]) / self.size[1]

    def values(self) -> dict[str, Any]:
        """The decision and the distances as JSON values; distances in pixels of the photo."""
        return {
            "decision": self.decision,
            "target": self.target,
            "at": [round(value, 1) for value in self.at],
            "view": [round(value, 1) for value in self.view],
            "stages": [
                {
                    "stage": view.stage,
                    "form": view.form,
                    "grid": list(view.grid),
                    "token": round(view.stride * self.scale, 2),
                    "half_distance": self._in_photo(view, view.half_distance),
                    "mean_distance": self._in_photo(view, view.mean_distance),
                    "receptive_field_radius": round(view.reach * self.scale, 1),
                }
                for view in self.stages
            ],
        }

    def _in_photo(self, view: StageView, tokens: np.ndarray) -> list[float]:
        return [round(float(value) * view.stride * self.scale, 1) for value in tokens]


def explain(subject: Subject, at: Point | None = None, *, evidence: bool = True) -> Explanation:
    """Reads attention and gradients of a decision, in float32.

    Args:
        subject: from a predictor.
        at: the point (x, y) of the photo that the stages look from; by default the strongest region of Grad-CAM, or the
            middle of what the decision is about.
        evidence: whether to compute Grad-CAM and integrated gradients, which need captum (the extra `explain`) and most
            of the time.
    Raises:
        RMTError: the point lies outside of the view, or captum is not installed.
    """
    if at is not None:
        check_point(at, subject.photo, subject.view)
    height, width = subject.size
    cam, stage, gradients = None, 0, None
    if evidence and subject.score is not None:
        cam, stage = grad_cam(subject)
        gradients = integrated_gradients(subject)[:height, :width]
    point = subject.to_view(at) if at is not None else _middle(subject, cam, strides(subject.network)[stage - 1])
    with torch.no_grad():
        inputs = attention_inputs(subject.network, subject.backbone_input)
    views = stage_views(subject.network, subject.backbone_input, inputs, point)
    return Explanation(
        photo=subject.photo,
        draw=subject.draw,
        view=subject.view,
        size=subject.size,
        decision=subject.decision,
        target=subject.target,
        at=at or subject.to_photo(point),
        stages=views,
        rollout=rollout(subject.network, inputs, subject.region),
        grad_cam=cam,
        grad_cam_stage=stage,
        integrated_gradients=gradients,
    )


def _middle(subject: Subject, cam: np.ndarray | None, stride: int) -> Point:
    """Where to look from unless a point is given, in pixels of the network's input. `stride`: of a token of `cam`."""
    height, width = subject.size
    if subject.region is not None and (point := nearest_to_middle(subject.region)):
        return point
    if cam is not None and cam.max() > 0:
        row, column = np.unravel_index(cam.argmax(), cam.shape)
        return min((column + 0.5) * stride, width - 0.5), min((row + 0.5) * stride, height - 0.5)
    return width / 2, height / 2
