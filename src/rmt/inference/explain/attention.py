"""What the attention of each stage looks at from one point, how far, and the path of attention through all blocks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rmt.model import RMT
from rmt.model.attention_maps import (
    AttentionInput,
    attended_share,
    decay_field,
    half_distances,
    manhattan_distance,
    query_weights,
)


@dataclass(frozen=True)
class StageView:
    """The attention of one token in one block of a stage. Distances are Manhattan distances in tokens.

    Attributes:
        stage: number of the stage, counted from 1.
        block: number of the block in the stage, counted from 1; the last one.
        form: "rows, then columns", "all pairs", or the name of another attention.
        stride: side of a token in pixels of the network's input.
        query: (row, column) of the token in the grid (h, w).
        attention: (n, h, w) for each head: the weight of each token; they sum to 1.
        decay: (n, h, w), γ^distance around the query: 1 there; None for an attention without such a decay.
        half_distance: (n,), where the decay is ½; empty without decay.
        mean_distance: (n,), of the tokens attended to, weighted by the attention.
        receptive_field: (H, W) of the network's input: how strongly each pixel influences the token after this stage,
            by gradient; sums to 1.
        reach: radius in pixels of the network's input around the token that holds half of the receptive field.
    """

    stage: int
    block: int
    form: str
    stride: int
    query: tuple[int, int]
    attention: np.ndarray
    decay: np.ndarray | None
    half_distance: np.ndarray
    mean_distance: np.ndarray
    receptive_field: np.ndarray
    reach: float

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.attention.shape[1], self.attention.shape[2]


def strides(network: RMT) -> list[int]:
    """Side of a token of each stage, in pixels."""
    return [info["reduction"] for info in network.feature_info]


def token_at(point: tuple[float, float], stride: int, grid: tuple[int, int]) -> tuple[int, int]:
    """(row, column) of the token that covers a point (x, y) of the network's input."""
    row, column = (min(max(int(value // stride), 0), side - 1) for value, side in zip(point[::-1], grid, strict=True))
    return row, column


def as_shares(weights: Tensor) -> Tensor:
    """Weights (…, h, w) as shares that sum to 1. Those of a softmax do; without one they also have signs."""
    weights = weights.abs()
    return weights / weights.sum((-2, -1), keepdim=True).clamp(min=1e-12)


def mean_distances(weights: Tensor, queries: Sequence[tuple[int, int]]) -> Tensor:
    """The mean distance in tokens that each query attends to: weights (Q, n, h, w) to (Q, n)."""
    grid = (weights.shape[2], weights.shape[3])
    distances = torch.stack([manhattan_distance(grid, query) for query in queries]).to(weights)
    return (as_shares(weights) * distances[:, None]).sum((2, 3))


def stage_views(
    network: RMT, images: Tensor, inputs: Sequence[AttentionInput], point: tuple[float, float]
) -> tuple[StageView, ...]:
    """The attention of the last block of each stage from the token at a point, and the receptive field there.

    Args:
        images: input of the backbone, (1, 3, H, W).
        inputs: `attention_inputs(network, images)`.
        point: (x, y) in pixels of the input.
    """
    fields = receptive_fields(network, images, point)
    views = []
    last = {entry.stage: entry for entry in inputs}
    for entry, stride, field in zip(last.values(), strides(network), fields, strict=True):
        grid = (entry.tokens.shape[1], entry.tokens.shape[2])
        query = token_at(point, stride, grid)
        weights = query_weights(entry.attention, entry.tokens, [query])
        decay = decay_field(entry.attention, grid, query)
        views.append(
            StageView(
                stage=entry.stage + 1,
                block=entry.block + 1,
                form=attention_form(entry),
                stride=stride,
                query=query,
                attention=as_shares(weights)[0].float().cpu().numpy(),
                decay=None if decay is None else decay.numpy(),
                half_distance=np.array(half_distances(entry.attention), dtype=np.float32),
                mean_distance=mean_distances(weights, [query])[0].float().cpu().numpy(),
                receptive_field=field,
                reach=half_radius(field, point),
            )
        )
    return tuple(views)


def attention_form(entry: AttentionInput) -> str:
    """In words: which tokens a token attends to."""
    if type(entry.attention).__name__ != "ManhattanSelfAttention":
        return type(entry.attention).__name__
    return "rows, then columns" if entry.attention.decomposed else "all pairs"


def receptive_fields(network: RMT, images: Tensor, point: tuple[float, float]) -> list[np.ndarray]:
    """For each stage the influence of each pixel on the token at a point (effective receptive field): (H, W), sum 1.

    It is the absolute gradient of the L1 norm of the token, summed over the colours.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pixels = images.detach().clone().requires_grad_()
        maps: list[Tensor] = network.forward_intermediates(pixels, intermediates_only=True)  # type: ignore[assignment]
        fields = []
        for features, stride in zip(maps, strides(network), strict=True):
            row, column = token_at(point, stride, (features.shape[2], features.shape[3]))
            norm = features[0, :, row, column].abs().sum()
            (gradient,) = torch.autograd.grad(norm, pixels, retain_graph=True)
            fields.append(as_shares(gradient[0].abs().sum(0)).float().cpu().numpy())
    return fields


def half_radius(field: np.ndarray, point: tuple[float, float], share: float = 0.5) -> float:
    """The radius in pixels around a point (x, y) within which `share` of a field (H, W) lies."""
    rows, columns = np.indices(field.shape)
    radii = np.hypot(columns + 0.5 - point[0], rows + 0.5 - point[1]).ravel()
    order = np.argsort(radii, kind="stable")
    inside = np.cumsum(field.ravel()[order])
    return float(radii[order][min(int(np.searchsorted(inside, share * inside[-1])), len(radii) - 1)])


def rollout(network: RMT, inputs: Sequence[AttentionInput], region: np.ndarray | None) -> np.ndarray:
    """Attention rollout (Abnar and Zuidema, 2020) over all blocks: where the tokens of the last stage come from.

    Each block passes on half of a token's share to itself, for the residual path, and half to what it attends to, the
    heads averaged. A token of a stage stands for the four that it was made of. Nothing larger than the grid is stored.

    Args:
        inputs: `attention_inputs` of the image.
        region: bool (H, W) of the network's input: the tokens to begin with; None for all, as a classifier averages
            them.
    Returns:
        the share of each token of the first stage, float32 (h, w), summing to 1.
    """
    tokens = inputs[-1].tokens
    share = tokens.new_ones(tokens.shape[1:3])
    if region is not None:
        stride = strides(network)[-1]
        covered = torch.from_numpy(region)[None, None].to(tokens)
        covered = F.pad(covered, (0, -covered.shape[3] % stride, 0, -covered.shape[2] % stride))
        share = F.avg_pool2d(covered, stride)[0, 0][: tokens.shape[1], : tokens.shape[2]]
        share = F.pad(share, (0, tokens.shape[2] - share.shape[1], 0, tokens.shape[1] - share.shape[0]))
    share = as_shares(share)
    for entry in reversed(inputs):
        grid = entry.tokens.shape[1:3]
        if share.shape != grid:
            share = as_shares(share.repeat_interleave(2, 0).repeat_interleave(2, 1)[: grid[0], : grid[1]])
        attended = as_shares(attended_share(entry.attention, entry.tokens, share).mean(0))
        share = (share + attended) / 2
    return share.float().cpu().numpy()
