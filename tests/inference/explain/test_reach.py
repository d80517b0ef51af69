"""The reach of heads: against distances computed pair by pair."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from rmt.inference.explain.reach import measure_reach, plot_reach
from rmt.model import create_model
from rmt.model.attention_maps import attention_inputs, query_weights


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return create_model("rmt_test", depths=(2, 1, 1, 1), decomposed=(True, True, True, False)).eval()


def test_distances_are_means_over_queries_images_and_keys(network):
    images = [torch.randn(1, 3, 16, 20), torch.randn(1, 3, 16, 20)]
    first = measure_reach(network, images)[0]
    places = [(row, column) for row in range(4) for column in range(5)]  # few tokens: all are queries
    pairs = np.array([[abs(a - c) + abs(b - d) for c, d in places] for a, b in places])
    for block in range(2):
        sums = np.zeros(2)
        for image in images:
            entry = attention_inputs(network, image)[block]
            sums += np.einsum("qnk,qk->n", query_weights(entry.attention, entry.tokens, places).flatten(2), pairs) / 20
        np.testing.assert_allclose(first.attended[block], sums / 2, rtol=1e-4)
    assert first.uniform == pytest.approx(pairs.mean()) and first.grid == (4, 5)


def test_without_content_the_decay_decides(network):
    """The heads of a stage look farther with their half distance, and less far than at all tokens alike."""
    for stage in measure_reach(network, [torch.randn(1, 3, 128, 128)])[:3]:
        assert (np.diff(stage.half_distance) > 0).all() and (np.diff(stage.decay_alone) > 0).all()
        assert (stage.decay_alone < stage.uniform).all()
        assert stage.values()["decay_alone"] == [round(value, 2) for value in stage.decay_alone.tolist()]


def test_a_network_without_decay_is_drawn_by_its_heads():
    plain = create_model("rmt_test", decay="none").eval()
    stages = measure_reach(plain, [torch.randn(1, 3, 64, 64)])
    assert not len(stages[0].half_distance) and "decay" not in stages[0].text()
    assert stages[0].decay_alone == pytest.approx([stages[0].uniform] * 2, rel=1e-4)
    axes = Figure().subplots(1, 4)
    plot_reach(axes, stages)
    assert [ax.get_xlabel() for ax in axes] == ["head (no decay)"] * 4
