"""The picture of the attentions: its weights are those of the formula, and it can be drawn."""

import pytest
import torch
from helpers.scripts_under_test import script
from PIL import Image

from rmt.model import ManhattanSelfAttention
from rmt.model.attention_maps import query_weights
from rmt.ops.masa import decay_rates

drawing = script("draw_attention")
QUERY, SIDE = (3, 5), 10


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randn(1, SIDE, SIDE, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained() -> ManhattanSelfAttention:
    torch.manual_seed(0)
    return ManhattanSelfAttention(8, 2)


def weights_of(attention, tokens, content):
    return query_weights(attention, tokens, [QUERY], content=content)[0]


@pytest.mark.parametrize("name", drawing.ATTENTIONS)
@pytest.mark.parametrize("content", [False, True])
def test_weights_of_a_query_sum_to_one(name, content, tokens, trained):
    kind, options = drawing.ATTENTIONS[name]
    weights = weights_of(drawing.like(trained, kind, **options), tokens, content)
    assert weights.shape == (2, SIDE, SIDE) and (weights >= 0).all()
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(2))
    if "7×7" in name:
        assert ((weights > 0).sum((1, 2)) == 49).all()


@pytest.mark.parametrize("name", ["Manhattan, all pairs", "Manhattan, rows and columns"])
def test_by_position_alone_the_weights_fall_by_gamma_per_token(name, tokens, trained):
    kind, options = drawing.ATTENTIONS[name]
    weights = weights_of(drawing.like(trained, kind, **options), tokens, False)
    for head, gamma in enumerate(decay_rates(2, trained.decay_range)):
        for row, column in ((3, 6), (4, 5), (0, 0), (9, 9)):
            distance = abs(row - QUERY[0]) + abs(column - QUERY[1])
            ratio = weights[head, row, column] / weights[head, QUERY[0], QUERY[1]]
            assert ratio.item() == pytest.approx(gamma**distance, rel=1e-4)


def test_plain_weights_are_the_softmax_of_the_scores(tokens, trained):
    plain = drawing.like(trained, ManhattanSelfAttention, decay="none", decomposed=False, phases="none")
    found = weights_of(plain, tokens, True)
    q, k = (part(tokens)[0].unflatten(-1, (2, 4)) for part in (plain.q, plain.k))
    expected = torch.einsum("nd,hwnd->nhw", q[QUERY], k).div(4**0.5).flatten(1).softmax(1)
    torch.testing.assert_close(found.flatten(1), expected, rtol=1e-4, atol=1e-6)


def test_it_is_drawn(tmp_path):
    drawing.draw(Image.effect_noise((90, 120), 60).convert("RGB"), (10, 15), tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (1040, 448)
