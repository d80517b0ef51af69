"""The network's side of token labelling: two answers apart, and a hook on the stem's tokens."""

import pytest
import torch

from rmt.model import create_model


@pytest.fixture
def network():
    return create_model("rmt_pico_tl", num_classes=7).eval()


def test_inference_is_class_logits_and_half_the_largest_token_logits(network):
    x = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        classes, tokens = network.forward_token_labelling(x)
        assert classes.shape == (2, 7) and tokens.shape == (2, 7, 2, 3)
        expected = [
            [float(classes[b, k]) + max(float(t) for t in tokens[b, k].flatten()) / 2 for k in range(7)]
            for b in range(2)
        ]
        torch.testing.assert_close(network(x), torch.tensor(expected))


def test_the_auxiliary_head_is_a_linear_of_each_token(network):
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features, tokens = network.forward_features(x), network.forward_token_labelling(x)[1]
        for i in range(2):
            for j in range(3):
                expected = network.aux_head.weight @ features[0, :, i, j] + network.aux_head.bias
                torch.testing.assert_close(tokens[0, :, i, j], expected)


def test_the_hook_changes_the_stem_s_tokens(network):
    x, seen = torch.randn(2, 3, 64, 96), []

    def swap(tokens):
        seen.append(tokens.shape)
        return tokens.flip(0)

    with torch.no_grad():
        plain = network.forward_token_labelling(x)
        swapped = network.forward_token_labelling(x, mix=swap)
    assert seen == [(2, 32, 16, 24)]
    for ours, theirs in zip(plain, swapped, strict=True):
        torch.testing.assert_close(ours.flip(0), theirs, atol=1e-5, rtol=1e-5)


def test_a_network_without_the_head_says_which_have_it():
    with pytest.raises(ValueError, match="_tl variants"):
        create_model("rmt_pico").forward_token_labelling(torch.randn(2, 3, 64, 64))
