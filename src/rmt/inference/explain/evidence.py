"""Which pixels speak for a decision: Grad-CAM and integrated gradients, by captum."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rmt.extras import missing_extra
from rmt.inference.explain.subject import Subject

MIN_GRID = 7  # tokens along the short side of a stage for Grad-CAM: that of the last stage at 224²
STEPS = 32  # of the path of integrated gradients
_PIXELS = 8 * 224**2  # that pass through the network together


def grad_cam(subject: Subject) -> tuple[np.ndarray, int]:
    """Grad-CAM (Selvaraju et al., 2017): the regions whose features raise the score: float32 (h, w), at most 1, not
    negative; and the number, from 1, of the stage whose features they are.

    That is the last stage with at least `MIN_GRID` tokens along the short side, otherwise the first one.
    """
    attribute = _captum()
    with torch.inference_mode(False), torch.enable_grad():
        pixels = subject.pixels.detach().clone()
        grids = [tuple(m.shape[2:]) for m in _features(subject)]
        stage = max((i for i, grid in enumerate(grids) if min(grid) >= MIN_GRID), default=0)
        method = attribute.LayerGradCam(_score(subject), subject.network.stages[stage])
        cam = method.attribute(pixels, relu_attributions=True)[0, 0].detach()
    return (cam / cam.max().clamp(min=1e-12)).float().cpu().numpy(), stage + 1


def integrated_gradients(subject: Subject, steps: int = STEPS) -> np.ndarray:
    """Integrated gradients (Sundararajan et al., 2017) from the mean colour to the image, summed over the colours.

    float32 (H, W) of the network's input. Its sum is the score of the image minus that of the mean colour, up to the
    error of so many steps; negative values speak against the decision.
    """
    attribute = _captum()
    with torch.inference_mode(False), torch.enable_grad():
        pixels = subject.pixels.detach().clone()
        method = attribute.IntegratedGradients(_score(subject))
        values = method.attribute(
            pixels,
            subject.baseline.detach().clone().expand_as(pixels),
            n_steps=steps,
            internal_batch_size=max(1, _PIXELS // pixels[0, 0].numel()),
        )
    return values[0].sum(0).detach().float().cpu().numpy()


def _score(subject: Subject) -> Callable[[Tensor], Tensor]:
    assert subject.score is not None
    return subject.score


@torch.no_grad()
def _features(subject: Subject) -> list[Tensor]:
    return subject.network.forward_intermediates(subject.backbone_input, intermediates_only=True)  # type: ignore[return-value]


def _captum():
    try:
        from captum import attr
    except ModuleNotFoundError as error:
        raise missing_extra("the evidence of an explanation", error) or error from error
    return attr
