"""The arithmetic of token labelling against slow, obvious re-computation."""

import math

import pytest
import torch

from rmt.tasks.classify.token_labelling.targets import MixTokenBox, dense_maps, pool_maps, smooth, token_label_loss


def stored(batch=3, height=5, width=6, k=5, num_classes=11):
    """Random stored maps: scores that sum to less than 1, and k different classes at each place."""
    scores = torch.rand(batch, height, width, num_classes).softmax(3)
    return scores.topk(k, dim=3)


def bilinear(field, y, x):
    """The value of field (h, w) at a point, pixel centres at 0, 1, …; RoIAlign's rule at the border."""
    height, width = field.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    y0, x0 = int(y), int(x)
    y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
    dy, dx = y - y0, x - x0
    upper = float(field[y0, x0]) * (1 - dx) + float(field[y0, x1]) * dx
    lower = float(field[y1, x0]) * (1 - dx) + float(field[y1, x1]) * dx
    return upper * (1 - dy) + lower * dy


def slow_pool(field, box, rows, columns):
    """RoIAlign by hand: the box cut into rows × columns bins, each the mean of points about a pixel apart."""
    height, width = field.shape
    left, top, right, bottom = box[0] * width - 0.5, box[1] * height - 0.5, box[2] * width - 0.5, box[3] * height - 0.5
    bin_height, bin_width = (bottom - top) / rows, (right - left) / columns
    down, across = math.ceil(bin_height), math.ceil(bin_width)
    pooled = torch.zeros(rows, columns)
    for i in range(rows):
        for j in range(columns):
            points = [
                bilinear(field, top + (i + (a + 0.5) / down) * bin_height, left + (j + (b + 0.5) / across) * bin_width)
                for a in range(down)
                for b in range(across)
            ]
            pooled[i, j] = sum(points) / len(points)
    return pooled


def test_dense_maps_put_each_score_at_its_class():
    scores, classes = stored()
    dense = dense_maps(scores.half(), classes.short(), 11)
    assert dense.dtype == torch.float32 and dense.shape == (3, 11, 5, 6)
    for b in range(3):
        for y in range(5):
            for x in range(6):
                expected = torch.zeros(11)
                for score, label in zip(scores[b, y, x].half(), classes[b, y, x], strict=True):
                    expected[label] = float(score)
                assert torch.equal(dense[b, :, y, x], expected)


def test_pooling_follows_crop_and_flip():
    torch.manual_seed(0)
    maps = dense_maps(*stored(), 11)
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.13, 0.4, 0.77, 0.62], [0.5, 0.05, 0.58, 0.95]])
    flipped = torch.tensor([False, True, False])
    tokens, whole = pool_maps(maps, box, flipped, (4, 3))
    for b in range(3):
        fields = [slow_pool(maps[b, label], box[b].tolist(), 4, 3) for label in range(11)]
        expected = torch.stack(fields)
        if flipped[b]:
            expected = expected.flip(2)
        torch.testing.assert_close(tokens[b], expected / expected.sum(0), atol=1e-5, rtol=1e-4)
        once = torch.stack([slow_pool(maps[b, label], box[b].tolist(), 1, 1)[0, 0] for label in range(11)])
        torch.testing.assert_close(whole[b], once / once.sum(), atol=1e-5, rtol=1e-4)


def test_the_whole_image_on_its_own_grid_is_the_map_itself():
    maps = dense_maps(*stored(), 11)
    box, flipped = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4), torch.zeros(3, dtype=torch.bool)
    tokens, whole = pool_maps(maps, box, flipped, (5, 6))
    torch.testing.assert_close(tokens, maps / maps.sum(1, keepdim=True))
    torch.testing.assert_close(whole, maps.sum((2, 3)) / maps.sum((1, 2, 3))[:, None])


def test_a_flipped_image_has_the_flipped_targets():
    """Flipping image and map before they are shown, or the view after, comes to the same."""
    maps = dense_maps(*stored(), 11)
    box = torch.tensor([[0.2, 0.1, 0.7, 0.9]]).expand(3, 4)
    mirrored = torch.tensor([[0.3, 0.1, 0.8, 0.9]]).expand(3, 4)
    yes, no = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    ours, theirs = pool_maps(maps, box, yes, (3, 3)), pool_maps(maps.flip(3), mirrored, no, (3, 3))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_without_any_score_the_target_is_even():
    maps = torch.zeros(1, 4, 3, 3)
    tokens, whole = pool_maps(maps, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([False]), (2, 2))
    assert torch.equal(tokens, torch.full((1, 4, 2, 2), 0.25)) and torch.equal(whole, torch.full((1, 4), 0.25))


def test_smoothing():
    assert smooth(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.2).tolist() == [pytest.approx([0.85, 0.05, 0.05, 0.05])]


def test_rectangles_are_as_the_method_says():
    """λ ~ Beta(1, 1), sides ⌊√(1−λ)·grid⌋, centre uniform, clipped: drawn by hand from the same generator."""
    for number in range(200):
        torch.manual_seed(number)
        box = MixTokenBox.sample((7, 5))
        torch.manual_seed(number)
        share = float(torch.distributions.Beta(1.0, 1.0).sample())
        height, width = math.floor(math.sqrt(1 - share) * 7), math.floor(math.sqrt(1 - share) * 5)
        y, x = int(torch.randint(7, ())), int(torch.randint(5, ()))
        cells = {(i, j) for i in range(7) for j in range(5)}
        inside = {(i, j) for i, j in cells if 0 <= i - (y - height // 2) < height and 0 <= j - (x - width // 2) < width}
        ours = {(i, j) for i, j in cells if box.top <= i < box.bottom}
        ours = {(i, j) for i, j in ours if box.left <= j < box.right}
        assert ours == inside
        assert box.kept == pytest.approx(1 - len(inside) / 35)


def test_swapping_exchanges_the_cells_of_b_and_its_partner():
    box = MixTokenBox(1, 3, 0, 2, (4, 3))
    x = torch.arange(5 * 2 * 8 * 6).view(5, 2, 8, 6)  # two positions a cell
    expected = x.clone()
    for b in range(5):
        for i in range(8):
            for j in range(6):
                if 1 <= i // 2 < 3 and 0 <= j // 2 < 2:
                    expected[b, :, i, j] = x[4 - b, :, i, j]
    assert torch.equal(box.swap(x, 2), expected)
    assert torch.equal(box.swap(box.swap(x, 2), 2), x)
    assert box.kept == pytest.approx(1 - 4 / 12)


def test_mixed_targets_by_area():
    box, targets = MixTokenBox(0, 2, 0, 1, (4, 2)), torch.rand(3, 5)
    for b in range(3):
        torch.testing.assert_close(box.mix(targets)[b], 0.75 * targets[b] + 0.25 * targets[2 - b])


def test_the_two_part_loss():
    torch.manual_seed(0)
    class_logits, token_logits = torch.randn(2, 4), torch.randn(2, 4, 3, 2)
    class_target, token_target = torch.rand(2, 4).softmax(1), torch.rand(2, 4, 3, 2).softmax(1)

    def cross_entropy(logits, target):
        total = math.log(sum(math.exp(value) for value in logits))
        return sum(float(t) * (total - float(value)) for t, value in zip(target, logits, strict=True))

    whole = sum(cross_entropy(class_logits[b], class_target[b]) for b in range(2)) / 2
    places = [(b, i, j) for b in range(2) for i in range(3) for j in range(2)]
    tokens = sum(cross_entropy(token_logits[b, :, i, j], token_target[b, :, i, j]) for b, i, j in places) / len(places)
    loss = token_label_loss(class_logits, token_logits, class_target, token_target)
    assert float(loss) == pytest.approx(whole + 0.5 * tokens, rel=1e-5)
