"""RetNet's retention against a loop over pairs of tokens."""

import itertools

import pytest
import torch

from rmt.model.attention import BidirectionalRetention, ChunkwiseRetention, ParallelRetention, RecurrentRetention

CAUSAL = [ParallelRetention, RecurrentRetention, ChunkwiseRetention]


def place(y: int, x: int, width: int, window: int) -> int:
    """The place of a token in the sequence: row by row, or window by window."""
    if not window:
        return y * width + x
    windows_in_a_row = (width + window - 1) // window
    return (y // window * windows_in_a_row + x // window) * window**2 + y % window * window + x % window


def slow_retention(attn: ParallelRetention, tokens: torch.Tensor, both_directions: bool) -> torch.Tensor:
    """Eq. 1 to 3, one pair of tokens at a time, in complex numbers."""
    batch, height, width, _ = tokens.shape
    n, d = attn.num_heads, attn.head_dim
    a, b = attn.decay_range
    grid = list(itertools.product(range(height), range(width)))
    q, k, v = attn.q(tokens), attn.k(tokens) * d**-0.5, attn.v(tokens)
    theta = [10000 ** (-j / (d // 2 - 1)) for j in range(d // 2)]
    out = torch.zeros_like(tokens)
    for image, head in itertools.product(range(batch), range(n)):
        gamma = 1.0 if attn.decay == "none" else 1 - 2 ** (-a - (b - a) * head / n)
        channels = slice(head * d, (head + 1) * d)
        for (y, x), (y2, x2) in itertools.product(grid, grid):
            steps = place(y, x, width, attn.window_size) - place(y2, x2, width, attn.window_size)
            if steps < 0 and not both_directions:
                continue
            query, key = q[image, y, x, channels].view(-1, 2), k[image, y2, x2, channels].view(-1, 2)
            query, key = (torch.complex(t[:, 0].contiguous(), t[:, 1].contiguous()) for t in (query, key))
            turn = torch.tensor([complex(0, steps * angle) for angle in theta]).exp() if attn.phases == "flat" else 1
            score = (query * key.conj() * turn).real.sum()
            out[image, y, x, channels] += gamma ** abs(steps) * score * v[image, y2, x2, channels]
    if attn.gate is not None:
        heads = out.unflatten(-1, (n, d))
        heads = (heads - heads.mean(-1, keepdim=True)) / (heads.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
        gate = tokens @ attn.gate.weight.T
        out = gate * gate.sigmoid() * (heads.flatten(-2) * attn.gate_norm.weight + attn.gate_norm.bias)
    if attn.lce is not None:
        out = out + attn.lce(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return attn.proj(out)


@pytest.mark.parametrize("options", [{}, dict(phases="none"), dict(decay="none"), dict(gate=True, lce=False)], ids=str)
@pytest.mark.parametrize("form", [*CAUSAL, BidirectionalRetention], ids=lambda form: form.__name__)
def test_equals_the_sum_over_pairs(form, options):
    torch.manual_seed(0)
    size = dict(window_size=2) if form is ChunkwiseRetention else {}
    attn = form(12, 2, decay_range=(1, 3), **size, **options).double()
    if attn.gate_norm is not None:
        torch.nn.init.normal_(attn.gate_norm.weight)
        torch.nn.init.normal_(attn.gate_norm.bias)
    with torch.no_grad():
        for height, width in ((3, 5), (4, 2), (1, 1)):
            x = torch.randn(2, height, width, 12, dtype=torch.float64)
            expected = slow_retention(attn, x, both_directions=form is BidirectionalRetention)
            torch.testing.assert_close(attn(x), expected, rtol=1e-6, atol=1e-7)  # phases are complex64


@pytest.mark.parametrize(("height", "width", "window"), [(6, 3, 3), (7, 3, 3), (5, 4, 1), (2, 7, 7), (1, 9, 1)])
def test_parallel_recurrent_and_chunkwise_are_one_function(height, width, window):
    """Where the order of the windows is row-major: one window to a row of the image, or one token to a window."""
    torch.manual_seed(0)
    parallel, recurrent = ParallelRetention(16, 2).double(), RecurrentRetention(16, 2).double()
    chunkwise = ChunkwiseRetention(16, 2, window_size=window).double()
    for other in (recurrent, chunkwise):
        other.load_state_dict(parallel.state_dict())
    x = torch.randn(2, height, width, 16, dtype=torch.float64)
    expected = parallel(x)
    for other in (recurrent, chunkwise):
        torch.testing.assert_close(other(x), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("form", CAUSAL, ids=lambda form: form.__name__)
def test_a_token_sees_none_that_come_after_it(form):
    torch.manual_seed(0)
    attn = form(8, 2, lce=False).double()
    x = torch.randn(1, 3, 7, 8, dtype=torch.float64, requires_grad=True)
    attn(x)[0, 1, 3].sum().backward()
    seen = x.grad[0].abs().sum(-1).flatten() > 0
    assert seen[: 7 + 4].all() and not seen[7 + 4 :].any()


def test_chunks_of_another_size_are_the_order_of_their_windows():
    """At 8 × 8 windows of 4 visit the tokens in another order than windows of 8, which is row-major."""
    torch.manual_seed(0)
    large, small = (ChunkwiseRetention(8, 2, window_size=size).double() for size in (8, 4))
    small.load_state_dict(large.state_dict())
    x = torch.randn(1, 8, 8, 8, dtype=torch.float64)
    with torch.no_grad():
        assert (large(x) - small(x)).abs().max() > 1e-3
