"""Window and neighbourhood attention against loops over the tokens."""

import itertools

import pytest
import torch

from rmt.model import ManhattanSelfAttention
from rmt.model.attention import NeighborhoodAttention, WindowAttention


def in_window(y: int, x: int, height: int, width: int, size: int) -> list[tuple[int, int]]:
    top, left = y - y % size, x - x % size
    return [(j, i) for j in range(top, top + size) for i in range(left, left + size) if j < height and i < width]


def in_neighborhood(y: int, x: int, height: int, width: int, size: int) -> list[tuple[int, int]]:
    """The window whose middle is the query, moved by as many steps as it takes to lie inside the image."""
    top, left = y - size // 2, x - size // 2
    while top + size > height:
        top -= 1
    while left + size > width:
        left -= 1
    top, left = max(top, 0), max(left, 0)
    return [(j, i) for j in range(top, top + size) for i in range(left, left + size) if j < height and i < width]


def slow_attention(attn: ManhattanSelfAttention, tokens: torch.Tensor, seen) -> torch.Tensor:
    batch, height, width, _ = tokens.shape
    n, d = attn.num_heads, attn.head_dim
    theta = torch.tensor([10000 ** (-j / (d // 2 - 1)) for j in range(d // 2)], dtype=torch.float64)

    def turned(vector, y, x):
        if attn.phases == "none":
            return vector
        a, b = vector.view(-1, 2).unbind(1)
        angle = (y * width + x) * theta
        return torch.stack((a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()), 1).flatten()

    q, k, v = attn.q(tokens), attn.k(tokens), attn.v(tokens)
    out = torch.zeros_like(tokens)
    for image, head, y, x in itertools.product(range(batch), range(n), range(height), range(width)):
        channels = slice(head * d, (head + 1) * d)
        others = seen(y, x, height, width, attn.window_size)
        query = turned(q[image, y, x, channels], y, x)
        scores = [(query * turned(k[image, j, i, channels], j, i)).sum() / d**0.5 for j, i in others]
        weights = torch.stack(scores).softmax(0)
        out[image, y, x, channels] = sum(
            w * v[image, j, i, channels] for w, (j, i) in zip(weights, others, strict=True)
        )
    return attn.proj(out + attn.lce(v.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


@pytest.mark.parametrize("phases", ["flat", "none"])
@pytest.mark.parametrize(("form", "seen"), [(WindowAttention, in_window), (NeighborhoodAttention, in_neighborhood)])
def test_equals_a_loop_over_the_queries(form, seen, phases):
    torch.manual_seed(0)
    attn = form(8, 2, window_size=3, phases=phases).double()
    with torch.no_grad():
        for height, width in ((6, 3), (4, 7), (2, 5), (1, 1)):
            x = torch.randn(2, height, width, 8, dtype=torch.float64)
            torch.testing.assert_close(attn(x), slow_attention(attn, x, seen), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", [WindowAttention, NeighborhoodAttention])
@pytest.mark.parametrize(("height", "width"), [(7, 7), (3, 5)])
def test_on_a_grid_no_larger_than_the_window_they_are_plain_attention(form, height, width):
    torch.manual_seed(0)
    attn, plain = form(8, 2).double(), ManhattanSelfAttention(8, 2, decomposed=False, decay="none").double()
    plain.load_state_dict(attn.state_dict())
    x = torch.randn(1, height, width, 8, dtype=torch.float64)
    torch.testing.assert_close(attn(x), plain(x), rtol=1e-10, atol=1e-12)


def test_what_they_have_not_is_refused():
    with pytest.raises(ValueError, match="WindowAttention has no decay"):
        WindowAttention(8, 2, decay="paper")
    with pytest.raises(ValueError, match="NeighborhoodAttention has a softmax"):
        NeighborhoodAttention(8, 2, gate=True)
    with pytest.raises(ValueError, match="odd side"):
        NeighborhoodAttention(8, 2, window_size=4)
    with pytest.raises(ValueError, match="does not lie in 1 to 64"):
        WindowAttention(8, 2, window_size=65)
