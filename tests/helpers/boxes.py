"""Boxes for tests, and their coding as deltas, box by box."""

import math

import torch


def random_boxes(count: int, width: float, height: float, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(count, 2, 2, generator=generator) * torch.tensor([width, height])
    return torch.cat([corners.amin(1), corners.amax(1) + 1], dim=1)


def encode(box, region, stds=(1, 1, 1, 1)):
    """(dx, dy, log dw, log dh) over the scales, from a region to a box."""
    (x1, y1, x2, y2), (u1, v1, u2, v2) = box, region
    w, h, rw, rh = x2 - x1, y2 - y1, u2 - u1, v2 - v1
    deltas = (x1 + x2 - u1 - u2) / 2 / rw, (y1 + y2 - v1 - v2) / 2 / rh, math.log(w / rw), math.log(h / rh)
    return [d / s for d, s in zip(deltas, stds, strict=True)]


def decode(deltas, region, stds=(1, 1, 1, 1)):
    u1, v1, u2, v2 = region
    dx, dy, dw, dh = (d * s for d, s in zip(deltas, stds, strict=True))
    cx, cy = (u1 + u2) / 2 + dx * (u2 - u1), (v1 + v2) / 2 + dy * (v2 - v1)
    w, h = (u2 - u1) * math.exp(dw), (v2 - v1) * math.exp(dh)
    return [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
