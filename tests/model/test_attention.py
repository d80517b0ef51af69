"""Manhattan Self-Attention against slow, obvious re-computations."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmt.model import ManhattanSelfAttention
from rmt.ops.masa import (
    SpatialPrior,
    attention_weights,
    decay_rates,
    log_decay,
    log_decay_rates,
    manhattan_log_decay,
    rotary_phases,
    rotate,
)


def slow_attention(attn: ManhattanSelfAttention, x: torch.Tensor) -> torch.Tensor:
    """Eq. 5 to 8 with the released networks' phases, one query, head and image at a time, in complex numbers."""
    batch, h, w, dim = x.shape
    n, d = attn.num_heads, attn.head_dim
    gammas = [1 - 2 ** (-attn.decay_range[0] - (attn.decay_range[1] - attn.decay_range[0]) * i / n) for i in range(n)]
    theta = torch.tensor([10000 ** (-j / (d / 2 - 1)) if d > 2 else 1.0 for j in range(d // 2)], dtype=x.dtype)
    out = torch.zeros_like(x)
    value = attn.v(x)
    for b in range(batch):
        for i, gamma in enumerate(gammas):
            channels = slice(i * d, (i + 1) * d)

            def turned(linear, channels=channels, b=b):
                z = linear(x)[b, :, :, channels].reshape(h * w, d // 2, 2)
                z = torch.complex(z[..., 0].contiguous(), z[..., 1].contiguous())
                return z * torch.polar(torch.ones_like(theta), theta)[None] ** torch.arange(h * w)[:, None]

            q, k = turned(attn.q), turned(attn.k) * d**-0.5
            v = value[b, :, :, channels].reshape(h * w, d)

            def attend(v, neighbours, distance, q=q, k=k, gamma=gamma):
                result = torch.zeros_like(v)
                for p in range(h * w):
                    others = neighbours(p)
                    score = torch.stack([(q[p] * k[o].conj()).real.sum() for o in others])
                    decay = torch.tensor([gamma ** distance(p, o) for o in others], dtype=x.dtype)
                    if attn.decay == "released":
                        weight = (score + decay.log()).softmax(0)
                    elif attn.decay == "paper":
                        weight = score.softmax(0) * decay
                    else:
                        weight = score.softmax(0)
                    result[p] = sum(a * v[o] for a, o in zip(weight, others, strict=True))
                return result

            if attn.decomposed:
                v = attend(v, lambda p: [p // w * w + c for c in range(w)], lambda p, o: abs(p % w - o % w))
                v = attend(v, lambda p: [r * w + p % w for r in range(h)], lambda p, o: abs(p // w - o // w))
            else:
                v = attend(v, lambda p: range(h * w), lambda p, o: abs(p % w - o % w) + abs(p // w - o // w))
            out[b, :, :, channels] = v.view(h, w, d)
    if attn.lce is not None:
        out = out + torch.nn.functional.conv2d(
            value.permute(0, 3, 1, 2), attn.lce.weight, attn.lce.bias, padding=2, groups=dim
        ).permute(0, 2, 3, 1)
    return attn.proj(out)


@pytest.mark.parametrize("lce", [True, False])
@pytest.mark.parametrize("decay", ["released", "paper", "none"])
@pytest.mark.parametrize("decomposed", [True, False])
def test_equals_the_method_spelled_out(decomposed, decay, lce):
    torch.manual_seed(0)
    attn = ManhattanSelfAttention(16, 2, decomposed=decomposed, decay=decay, lce=lce).double()
    x = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attn(x), slow_attention(attn, x), rtol=1e-10, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(length=st.integers(1, 12), row=st.booleans(), heads=st.integers(1, 3), seed=st.integers(0, 2**31))
def test_decomposed_equals_full_on_one_row_and_one_column(length, row, heads, seed):
    torch.manual_seed(seed)
    full = ManhattanSelfAttention(8 * heads, heads, decomposed=False).double()
    decomposed = ManhattanSelfAttention(8 * heads, heads, decomposed=True).double()
    decomposed.load_state_dict(full.state_dict())
    h, w = (1, length) if row else (length, 1)
    x = torch.randn(1, h, w, 8 * heads, dtype=torch.float64)
    torch.testing.assert_close(decomposed(x), full(x), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("decay", ["released", "paper", "none"])
@pytest.mark.parametrize("decomposed", [True, False])
def test_gradients(decomposed, decay):
    torch.manual_seed(0)
    attn = ManhattanSelfAttention(8, 2, decomposed=decomposed, decay=decay).double()
    x = torch.randn(1, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    parameters = tuple(attn.parameters())

    def run(x, *values):
        names = [name for name, _ in attn.named_parameters()]
        return torch.func.functional_call(attn, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters))


def test_released_rows_sum_to_one_and_paper_rows_do_not():
    """On 7×7 with random logits, the row sums with the paper's decay go from 0.34 (strongest decay) to 0.98."""
    torch.manual_seed(0)
    scores = torch.randn(64, 16, 49, 49, dtype=torch.float64)
    axis = log_decay(7, log_decay_rates(16, (2, 8), torch.float64, "cpu"))
    table = manhattan_log_decay(SpatialPrior(*[torch.empty(0)] * 2, axis, axis, torch.empty(0)))
    sums = {}
    for decay in ("released", "paper"):
        weights = attention_weights(scores, table, decay)
        sums[decay] = weights.sum(-1).mean((0, 2))
    torch.testing.assert_close(sums["released"], torch.ones(16, dtype=torch.float64))
    assert sums["paper"].diff().gt(0).all()
    assert sums["paper"][0].item() == pytest.approx(0.34, abs=0.02)
    assert sums["paper"][-1].item() == pytest.approx(0.98, abs=0.01)


def test_decay_rates_of_the_paper():
    assert decay_rates(4, (2, 6)) == [1 - 2.0**-2, 1 - 2.0**-3, 1 - 2.0**-4, 1 - 2.0**-5]


def test_log_decay_is_distance_times_log_gamma():
    table = log_decay(5, log_decay_rates(3, (2, 8), torch.float64, "cpu"))
    for i, gamma in enumerate(decay_rates(3, (2, 8))):
        for a in range(5):
            for b in range(5):
                assert table[i, a, b].item() == pytest.approx(abs(a - b) * math.log(gamma), rel=1e-14)


def test_rotation_depends_on_the_difference_of_positions_alone():
    torch.manual_seed(0)
    phase = rotary_phases(1, 40, 8, torch.float64, "cpu")
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)
    prior = SpatialPrior(phase.sin(), phase.cos(), *[torch.empty(0)] * 3)
    q, k = (rotate(t.expand(1, 40, 1, 8), prior).view(40, 8) for t in (q, k))
    scores = q @ k.T
    for offset in range(-39, 40):
        diagonal = scores.diagonal(offset)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-9, atol=1e-9)


def test_canonical_float32_phases():
    """θ in float32, then one float32 product; at 2688² the position is 451,583 and rounding shows."""
    phase = rotary_phases(672, 672, 16, torch.float32, "cpu")
    assert phase.dtype == torch.float32
    theta = phase[0, 1, 0]  # of position 1
    exact = 10000.0 ** -torch.linspace(0, 1, 8, dtype=torch.float64)
    torch.testing.assert_close(theta, exact.float(), rtol=1e-6, atol=0)
    last = phase[-1, -1, 0]
    assert torch.equal(last, torch.tensor(672 * 672 - 1, dtype=torch.float32) * theta)
    # ... which is off the exact phase by far more than a rounding of its sine: hence "canonical".
    assert ((672 * 672 - 1) * exact - last).abs().max() > 1e-3


def test_refuses_odd_head_width_and_unknown_decay():
    with pytest.raises(ValueError, match="multiple of 2"):
        ManhattanSelfAttention(9, 3)
    with pytest.raises(ValueError, match="released"):
        ManhattanSelfAttention(8, 2, decay="linear")
