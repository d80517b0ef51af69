"""The weights read out of attention modules: against dense matrices made here, and by what they do to the values."""

import pytest
import torch
from helpers.networks import pico

from rmt.errors import RMTError
from rmt.model import ManhattanSelfAttention, create_model
from rmt.model.attention import REPLACEMENTS
from rmt.model.attention_maps import (
    attended_share,
    attention_inputs,
    decay_field,
    half_distances,
    manhattan_distance,
    query_weights,
)
from rmt.model.deploy import deploy
from rmt.ops.masa import decay_rates

HEIGHT, WIDTH, HEADS, DIM = 5, 6, 2, 8
ALL = [(row, column) for row in range(HEIGHT) for column in range(WIDTH)]
FORMS = [dict(decomposed=decomposed, decay=decay) for decomposed in (True, False) for decay in ("released", "none")]


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randn(1, HEIGHT, WIDTH, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def attention(kind: type = ManhattanSelfAttention, **options) -> ManhattanSelfAttention:
    torch.manual_seed(0)
    module = kind(DIM, HEADS, **options).double().eval()
    with torch.no_grad():
        for layer in (module.q, module.k):
            layer.weight.mul_(3)  # weights far from uniform
    return module


def matrix(module: ManhattanSelfAttention, tokens: torch.Tensor) -> torch.Tensor:
    """A of all queries, (n, h·w, h·w)."""
    return query_weights(module, tokens, ALL).flatten(2).transpose(0, 1)


def dense(module: ManhattanSelfAttention, tokens: torch.Tensor) -> torch.Tensor:
    """The same, from the paper's equations token by token: Eq. 5, or Eq. 6 as the product of two attentions."""
    q, k = (part(tokens)[0].unflatten(-1, (HEADS, -1)) for part in (module.q, module.k))
    theta = [10000.0 ** -(j / (DIM // HEADS // 2 - 1)) for j in range(DIM // HEADS // 2)]

    def turned(x: torch.Tensor, place: tuple[int, int], head: int) -> torch.Tensor:
        pairs = torch.view_as_complex(x[place][head].reshape(-1, 2).contiguous())
        angles = torch.tensor([(place[0] * WIDTH + place[1]) * t for t in theta], dtype=torch.float64)
        return pairs * torch.polar(torch.ones_like(angles), angles)

    def softmax(head: int, query: tuple[int, int], keys: list[tuple[int, int]], gamma: float) -> torch.Tensor:
        logits = []
        for key in keys:
            score = (turned(q, query, head) * turned(k, key, head).conj()).real.sum() / (DIM // HEADS) ** 0.5
            distance = abs(query[0] - key[0]) + abs(query[1] - key[1])
            logits.append(score + (distance * torch.log(torch.tensor(gamma)) if module.decay == "released" else 0))
        return torch.stack(logits).softmax(0)

    found = torch.zeros(HEADS, HEIGHT, WIDTH, HEIGHT, WIDTH, dtype=torch.float64)
    for head, gamma in enumerate(decay_rates(HEADS, module.decay_range)):
        for row, column in ALL:
            if not module.decomposed:
                found[head, row, column] = softmax(head, (row, column), ALL, gamma).view(HEIGHT, WIDTH)
                continue
            along_column = softmax(head, (row, column), [(y, column) for y in range(HEIGHT)], gamma)
            for y in range(HEIGHT):
                along_row = softmax(head, (y, column), [(y, x) for x in range(WIDTH)], gamma)
                found[head, row, column, y] = along_column[y] * along_row
    return found.flatten(3).flatten(1, 2)


@pytest.mark.parametrize("options", FORMS)
def test_the_weights_are_those_of_the_equations(options, tokens):
    module = attention(**options)
    found = matrix(module, tokens)
    torch.testing.assert_close(found.sum(2), torch.ones(HEADS, HEIGHT * WIDTH, dtype=torch.float64))
    assert (found >= 0).all() and found.std() > 0.01
    torch.testing.assert_close(found, dense(module, tokens), rtol=1e-6, atol=1e-9)


KINDS = [dict(**form) for form in FORMS] + [dict(decay="paper"), dict(gate=True), dict(phases="axial")]
CASES = [(ManhattanSelfAttention, options) for options in KINDS] + [(kind, {}) for kind in REPLACEMENTS.values()]


@pytest.mark.parametrize(("kind", "options"), CASES)
@torch.no_grad()
def test_they_turn_the_values_into_the_output_of_the_module(kind, options, tokens):
    """The output before LCE, gate and projection."""
    module = attention(kind, lce=False, **options)
    module.proj, module.gate = torch.nn.Identity(), None
    values = module.v(tokens)[0].unflatten(-1, (HEADS, -1)).flatten(0, 1)  # (h·w, n, d)
    mapped = torch.einsum("nqk,knd->qnd", matrix(module, tokens), values).flatten(1)
    torch.testing.assert_close(mapped.view(1, HEIGHT, WIDTH, DIM), module(tokens), rtol=1e-6, atol=1e-9)


def test_by_position_alone_they_fall_with_the_decay(tokens):
    module = attention()
    (found,) = query_weights(module, tokens, [(1, 4)], content=False)
    field = decay_field(module, (HEIGHT, WIDTH), (1, 4)).double()
    torch.testing.assert_close(found / found[:, 1:2, 4:5], field, rtol=1e-5, atol=1e-6)
    assert half_distances(module) == pytest.approx([2.4094, 10.7398], abs=1e-3)  # ln ½ / ln (1 − 2⁻²), (1 − 2⁻⁴)
    for head, half in enumerate(half_distances(module)):
        gamma = decay_rates(HEADS, module.decay_range)[head]
        assert gamma**half == pytest.approx(0.5)
    assert manhattan_distance((2, 3), (1, 0)).tolist() == [[1, 2, 3], [0, 1, 2]]
    assert decay_field(attention(decay="none"), (2, 2), (0, 0)) is None
    assert half_distances(attention(REPLACEMENTS["window"])) == []


def test_a_share_of_queries_is_the_sum_of_their_rows(tokens):
    module = attention()
    share = torch.rand(HEIGHT, WIDTH, dtype=torch.float64)
    expected = torch.einsum("q,nqk->nk", share.flatten(), matrix(module, tokens)).unflatten(1, (HEIGHT, WIDTH))
    torch.testing.assert_close(attended_share(module, tokens, share), expected)


@pytest.mark.parametrize("options", [{}, dict(conv_stem=False, cpe=False, conv_downsample=False)])
@torch.no_grad()
def test_the_inputs_are_those_of_the_network_itself(options):
    network, images = pico(**options).eval(), torch.randn(2, 3, 45, 64)
    seen = []
    for stage in network.stages:
        for block in stage.blocks:
            block.attn.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0])))
    network.forward_features(images)
    wanted = list(seen)
    found = attention_inputs(network, images)
    assert [(f.stage, f.block) for f in found] == [(0, 0), (1, 0), (2, 0), (3, 0)]
    for entry, (module, inputs) in zip(found, wanted, strict=True):
        assert entry.attention is module
        torch.testing.assert_close(entry.tokens, inputs, rtol=0, atol=0)


def test_a_deployed_network_is_refused():
    with pytest.raises(RMTError, match="not from its copy by rmt.deploy"):
        attention_inputs(deploy(create_model("rmt_test")), torch.randn(1, 3, 32, 32))
