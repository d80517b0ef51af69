"""What the tokens of a network attend to: the weights of its attention modules, without hooks.

An attention is linear in its values, out = A·v for each head, so that rows of A follow from the gradient of `out` by
`v`. This holds for every attention of `RMT(attention=NAME)`. For MaSA over all pairs of tokens A is the softmax of
Eq. 5; along rows and columns (Eq. 6) it is the product of both attentions, A[(y, x), (y', x')] =
column weight [x; y, y'] · row weight [y'; x, x'], which no tensor of the network contains. Its rows sum to 1 unless the
decay is applied after the softmax (`decay="paper"`) or there is no softmax (`gate=True`, retention).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rmt.errors import RMTError
from rmt.model.rmt import RMT, Block, ManhattanSelfAttention, nchw, nhwc
from rmt.ops import BACKENDS, decay_rates

__all__ = [
    "AttentionInput",
    "attended_share",
    "attention_inputs",
    "decay_field",
    "half_distances",
    "manhattan_distance",
    "query_weights",
]


class AttentionInput(NamedTuple):
    """What the attention of one block is given.

    Attributes:
        stage: number of the stage, counted from 0.
        block: number of the block in the stage, counted from 0.
        attention: the attention module.
        tokens: its input, (B, h, w, C).
    """

    stage: int
    block: int
    attention: ManhattanSelfAttention
    tokens: Tensor


@torch.no_grad()
def attention_inputs(network: RMT, images: Tensor) -> list[AttentionInput]:
    """What each attention is given when the network is applied to images (B, 3, H, W), in the order of the blocks.

    Raises:
        RMTError: the network was rewritten by `rmt.deploy`, whose blocks have no attention of this kind.
    """
    found = []
    x = network.stem(images)
    stage: Any
    for number, stage in enumerate(network.stages):
        x = nhwc(stage.downsample(x))
        for place, block in enumerate(stage.blocks):
            if not isinstance(block, Block):
                raise RMTError("attention is read from the trained network, not from its copy by rmt.deploy")
            found.append(AttentionInput(number, place, block.attn, block.norm1(block.add_position(x))))
            x = block(x, block.attn.prior(x.shape[1], x.shape[2], x))
        x = nchw(x)
    return found


def query_weights(
    attention: ManhattanSelfAttention,
    tokens: Tensor,
    queries: Sequence[tuple[int, int]],
    *,
    content: bool = True,
) -> Tensor:
    """The rows of A of some queries: (Q, n, h, w), the weight of every token of the grid for each query and head.

    The weights of a query sum to 1 over the grid, unless the network applies its decay after the softmax
    (`decay="paper"`) or has no softmax (`gate=True`, retention).

    Args:
        attention: with n heads, of any block; `attention_inputs` returns the modules and their tokens.
        tokens: input of the attention for one image, (1, h, w, C).
        queries: Q pairs (row, column) of the grid, from 0.
        content: with the queries and keys of the tokens; otherwise they are 0, which leaves the decay alone.
    """
    rows, columns = (torch.tensor(axis, device=tokens.device) for axis in zip(*queries, strict=True))
    one_hot = tokens.new_zeros(*tokens.shape[:3], attention.num_heads, len(queries))
    one_hot[0, rows, columns, :, torch.arange(len(queries), device=tokens.device)] = 1
    return _transposed(attention, tokens, one_hot, content)[0].permute(3, 2, 0, 1)


def attended_share(attention: ManhattanSelfAttention, tokens: Tensor, share: Tensor) -> Tensor:
    """Aᵀ·share for each head: how much the queries, weighted by `share` (h, w), attend to each token: (n, h, w)."""
    of_heads = share[None, :, :, None, None].expand(-1, -1, -1, attention.num_heads, -1)
    return _transposed(attention, tokens, of_heads, True)[0, ..., 0].permute(2, 0, 1)


def half_distances(attention: ManhattanSelfAttention) -> list[float]:
    """The Manhattan distance in tokens at which the decay of each head is ½; empty without a Manhattan decay."""
    if type(attention) is not ManhattanSelfAttention or attention.decay == "none":
        return []
    return [math.log(0.5) / math.log(gamma) for gamma in decay_rates(attention.num_heads, attention.decay_range)]


def decay_field(attention: ManhattanSelfAttention, grid: tuple[int, int], query: tuple[int, int]) -> Tensor | None:
    """γ^(|Δx| + |Δy|) around a query (row, column) of a grid (h, w) for each head: (n, h, w). Eq. 4.

    None for an attention without a Manhattan decay.
    """
    if not half_distances(attention):
        return None
    gamma = torch.tensor(decay_rates(attention.num_heads, attention.decay_range))
    return gamma[:, None, None] ** manhattan_distance(grid, query)


def manhattan_distance(grid: tuple[int, int], query: tuple[int, int]) -> Tensor:
    """|Δx| + |Δy| in tokens of every token of a grid (h, w) to a query (row, column): (h, w)."""
    rows, columns = ((torch.arange(side) - place).abs() for side, place in zip(grid, query, strict=True))
    return (rows[:, None] + columns).float()


def _transposed(attention: ManhattanSelfAttention, tokens: Tensor, outputs: Tensor, content: bool) -> Tensor:
    """Aᵀ·outputs for (1, h, w, n, Q): the gradient of A·v by v in that direction."""
    heads = (attention.num_heads, attention.head_dim)
    with torch.no_grad():
        q, k = attention.q(tokens).unflatten(-1, heads), attention.k(tokens).unflatten(-1, heads)
        if not content:
            q, k = torch.zeros_like(q), torch.zeros_like(k)
    ours = attention.attend is ManhattanSelfAttention.attend
    attend = BACKENDS["blockwise"] if ours else attention.attend  # the kernels need values as wide as the keys
    with torch.inference_mode(False), torch.enable_grad():
        q, k, outputs = q.clone(), k.clone(), outputs.to(q.dtype).clone()
        v = torch.zeros_like(outputs, requires_grad=True)
        out = attend(q, k, v, attention.prior(q.shape[1], q.shape[2], q), attention.config)
        return torch.autograd.grad(out, v, outputs)[0]
