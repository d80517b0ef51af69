"""Manhattan Self-Attention against slow, obvious re-computations."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from rmt.model import ManhattanSelfAttention
from rmt.ops.masa import (
    MaSAConfig,
    SpatialPrior,
    attend_along_width,
    attention_weights,
    decay_rates,
    log_decay,
    log_decay_rates,
    manhattan_log_decay,
    rotary_phases,
    rotate,
)


def slow_attention(attn: ManhattanSelfAttention, x: torch.Tensor) -> torch.Tensor:
    """Eq. 5 to 8 with any phases, one query, head and image at a time, in complex numbers."""
    batch, h, w, dim = x.shape
    n, d = attn.num_heads, attn.head_dim
    gammas = [1 - 2 ** (-attn.decay_range[0] - (attn.decay_range[1] - attn.decay_range[0]) * i / n) for i in range(n)]
    tokens = torch.tensor([[p, p % w, p // w] for p in range(h * w)], dtype=x.dtype)

    def thetas(pairs):
        return torch.tensor([10000 ** (-j / (pairs - 1)) if pairs > 1 else 1.0 for j in range(pairs)], dtype=x.dtype)

    if attn.phases == "flat":
        angles = tokens[:, :1] * thetas(d // 2)
    elif attn.phases == "axial":  # of an odd number of pairs x has one more
        pairs_y = d // 4
        angles = torch.cat([tokens[:, 1:2] * thetas(d // 2 - pairs_y), tokens[:, 2:] * thetas(pairs_y)], 1)
    else:
        angles = torch.zeros(h * w, d // 2, dtype=x.dtype)
    out = torch.zeros_like(x)
    value = attn.v(x)
    for b in range(batch):
        for i, gamma in enumerate(gammas):
            channels = slice(i * d, (i + 1) * d)

            def turned(linear, channels=channels, b=b):
                z = linear(x)[b, :, :, channels].reshape(h * w, d // 2, 2)
                z = torch.complex(z[..., 0].contiguous(), z[..., 1].contiguous())
                return z * torch.polar(torch.ones_like(angles), angles)

            q, k = turned(attn.q), turned(attn.k) * d**-0.5
            v = value[b, :, :, channels].reshape(h * w, d)

            def attend(v, neighbours, distance, q=q, k=k, gamma=gamma):
                result = torch.zeros_like(v)
                for p in range(h * w):
                    others = neighbours(p)
                    score = torch.stack([(q[p] * k[o].conj()).real.sum() for o in others])
                    decay = torch.tensor([gamma ** distance(p, o) for o in others], dtype=x.dtype)
                    if attn.gate is not None:
                        weight = score if attn.decay == "none" else score * decay
                    elif attn.decay == "released":
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
            if attn.gate is not None:
                norm, gate = attn.gate_norm, x[b] @ attn.gate.weight[channels].T
                for y, column in itertools.product(range(h), range(w)):
                    token = out[b, y, column, channels]
                    token = (token - token.mean()) / (token.var(correction=0) + norm.eps).sqrt()
                    token = token * norm.weight[channels] + norm.bias[channels]
                    out[b, y, column, channels] = token * gate[y, column] * gate[y, column].sigmoid()
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


@pytest.mark.parametrize("phases", ["axial", "none"])
@pytest.mark.parametrize("decay", ["released", "paper"])
@pytest.mark.parametrize("decomposed", [True, False])
@pytest.mark.parametrize("dim", [4, 12, 16])
def test_other_phases_equal_the_method_spelled_out(dim, decomposed, decay, phases):
    torch.manual_seed(0)
    attn = ManhattanSelfAttention(dim, 2, decomposed=decomposed, decay=decay, phases=phases).double()
    x = torch.randn(2, 3, 5, dim, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attn(x), slow_attention(attn, x), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("phases", ["flat", "none"])
@pytest.mark.parametrize("decay", ["released", "none"])
@pytest.mark.parametrize("decomposed", [True, False])
def test_the_gate_equals_the_method_spelled_out(decomposed, decay, phases):
    torch.manual_seed(0)
    attn = ManhattanSelfAttention(16, 2, decomposed=decomposed, decay=decay, phases=phases, gate=True).double()
    torch.nn.init.normal_(attn.gate_norm.weight)
    torch.nn.init.normal_(attn.gate_norm.bias)
    x = torch.randn(2, 3, 5, 16, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(attn(x), slow_attention(attn, x), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("decomposed", [True, False])
def test_axial_phases_do_not_depend_on_the_width_and_flat_ones_do(decomposed):
    """Two tokens of one column attend to each other alike whatever lies to the right of them."""
    torch.manual_seed(0)
    x = torch.randn(1, 4, 9, 16, dtype=torch.float64)
    for phases, equal in (("axial", True), ("none", True), ("flat", False)):
        attn = ManhattanSelfAttention(16, 2, decomposed=decomposed, phases=phases).double()
        tables = [attn.prior(4, width, x[:, :, :width]) for width in (5, 9)]
        q, k = torch.randn(2, 1, 4, 5, 2, 8, dtype=torch.float64)
        narrow, wide = (prior._replace(sin=prior.sin[:, :5], cos=prior.cos[:, :5]) for prior in tables)
        scores = [torch.einsum("byxnd,bzxnd->byzxn", rotate(q, p), rotate(k, p)) for p in (narrow, wide)]
        assert torch.allclose(*scores) == equal


@pytest.mark.parametrize("phases", ["axial", "none"])
def test_rows_see_x_alone_and_columns_y_alone(phases):
    """The scores along rows are those of any other row, and along columns of any other column."""
    torch.manual_seed(0)
    prior = ManhattanSelfAttention(16, 2, phases=phases).double().prior(4, 6, torch.empty(0, dtype=torch.float64))
    q, k = (rotate(torch.randn(1, 1, 1, 2, 8, dtype=torch.float64).expand(1, 4, 6, 2, 8), prior) for _ in range(2))
    rows = torch.einsum("byxnd,byznd->yxzn", q, k)
    columns = torch.einsum("byxnd,bzxnd->xyzn", q, k)
    for scores in (rows, columns):
        torch.testing.assert_close(scores, scores[:1].expand_as(scores))


def test_equal_ends_of_the_range_give_all_heads_one_rate():
    assert decay_rates(4, (4, 4)) == [1 - 2.0**-4] * 4
    attn = ManhattanSelfAttention(16, 4, decay_range=(3, 3)).double()
    x = torch.randn(1, 3, 4, 16, dtype=torch.float64)
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


@pytest.mark.parametrize(
    "form",
    [
        *(dict(), dict(gate=True, decay="none"), dict(phases="axial"), dict(phases="none", decay="paper")),
        *(dict(decay="paper"), dict(decay="none"), dict(gate=True)),
    ],
    ids=str,
)
@pytest.mark.parametrize("decomposed", [True, False])
def test_gradients(decomposed, form):
    torch.manual_seed(0)
    attn = ManhattanSelfAttention(8, 2, decomposed=decomposed, **form).double()
    x = torch.randn(1, 2, 3, 8, dtype=torch.float64, requires_grad=True)
    parameters = tuple(attn.parameters())

    def run(x, *values):
        names = [name for name, _ in attn.named_parameters()]
        return torch.func.functional_call(attn, dict(zip(names, values, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *parameters), fast_mode=True)  # along random directions


def test_released_rows_sum_to_one_and_paper_rows_do_not():
    """On 7×7 with random logits, the row sums with the paper's decay go from 0.34 (strongest decay) to 0.98."""
    torch.manual_seed(0)
    scores = torch.randn(64, 16, 49, 49, dtype=torch.float64)
    axis = log_decay(7, log_decay_rates(16, (2, 8), torch.float64, "cpu"))
    table = manhattan_log_decay(SpatialPrior(*[torch.empty(0)] * 2, axis, axis, torch.empty(0)))
    sums = {}
    for decay in ("released", "paper"):
        weights = attention_weights(scores, table, MaSAConfig(False, decay, (2, 8), scale=1))
        sums[decay] = weights.sum(-1).mean((0, 2))
    torch.testing.assert_close(sums["released"], torch.ones(16, dtype=torch.float64))
    assert sums["paper"].diff().gt(0).all()
    assert sums["paper"][0].item() == pytest.approx(0.34, abs=0.02)
    assert sums["paper"][-1].item() == pytest.approx(0.98, abs=0.01)


def test_the_softmax_finds_no_other_copy_of_the_scores_in_memory():
    """In bfloat16, where the scores, their float32 copy and the sum with the decay are three tensors."""
    storages, alive = set(), []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._softmax.default:
                alive.append(sum(not storage.expired() for storage in storages))
            out = func(*args, **(kwargs or {}))
            if out.shape[-2:] == (24, 24):  # queries and keys
                storages.add(StorageWeakRef(out.untyped_storage()))
            return out

    q, k, v = (torch.randn(2, 3, 24, 4, 8, dtype=torch.bfloat16) for _ in range(3))
    bias = log_decay(24, log_decay_rates(4, (2, 8), torch.float32, "cpu"))
    with Watch(), torch.no_grad():
        attend_along_width(q, k, v, bias, MaSAConfig(True, "released", (2, 8), scale=1))
    assert alive == [1]  # its own input


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
    with pytest.raises(ValueError, match="axial"):
        ManhattanSelfAttention(8, 2, phases="radial")
