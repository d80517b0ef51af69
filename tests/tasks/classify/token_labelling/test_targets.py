"""The arithmetic of token labelling against slow, obvious re-computation."""

import math

import pytest
import torch
from torchvision.ops import roi_align

import rmt.tasks.classify.token_labelling.targets as module
from rmt.tasks.classify.token_labelling.targets import (
    MixTokenBox,
    dense_maps,
    mix_ground_truth,
    pool_maps,
    smooth,
    token_label_loss,
)


def stored(batch=3, height=5, width=6, k=5, num_classes=11):
    """Random stored maps: logits, and k different classes at each place."""
    return (4 * torch.randn(batch, height, width, num_classes)).topk(k, dim=3)


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


def slow_pool(field, x1, y1, x2, y2, rows, columns):
    """RoIAlign by hand, not aligned: the box, at least one cell large, cut into rows × columns bins.

    Each bin is the mean of ⌈side of the bin⌉ points along each axis.
    """
    bin_height, bin_width = max(y2 - y1, 1.0) / rows, max(x2 - x1, 1.0) / columns
    down, across = math.ceil(bin_height), math.ceil(bin_width)
    pooled = torch.zeros(rows, columns)
    for i in range(rows):
        for j in range(columns):
            points = [
                bilinear(field, y1 + (i + (a + 0.5) / down) * bin_height, x1 + (j + (b + 0.5) / across) * bin_width)
                for a in range(down)
                for b in range(across)
            ]
            pooled[i, j] = sum(points) / len(points)
    return pooled


def slow_targets(scores, classes, corners, num_classes, rows, columns):
    """Softmax over all classes of each pooled logit: (K, rows, columns). `corners` are x1, y1, x2, y2 in cells."""
    dense = dense_maps(scores[None], classes[None], num_classes)[0]
    return torch.stack([slow_pool(field, *corners, rows, columns) for field in dense]).softmax(0)


BOXES = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.13, 0.4, 0.77, 0.62], [0.5, 0.05, 0.58, 0.95]])


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


@pytest.mark.parametrize("swap_axes", [False, True])
@pytest.mark.parametrize("most_at_once", [2**25, 400])
def test_targets_are_the_softmax_of_pooled_logits(monkeypatch, swap_axes, most_at_once):
    """Also if the maps are pooled one by one, and with LV-ViT's exchanged axes: (top, left, bottom, right)."""
    monkeypatch.setattr(module, "_MAX_DENSE_VALUES", most_at_once)
    torch.manual_seed(0)
    scores, classes = stored()
    tokens, whole = pool_maps(scores.half(), classes.short(), BOXES, 11, (4, 3), swap_axes=swap_axes)
    assert tokens.shape == (3, 11, 4, 3) and whole.shape == (3, 11)
    for b in range(3):
        left, top, right, bottom = BOXES[b].tolist()
        if swap_axes:
            left, top, right, bottom = top, left, bottom, right
        corners = left * 6 - 0.5, top * 5 - 0.5, right * 6 - 0.5, bottom * 5 - 0.5
        expected = slow_targets(scores[b].half(), classes[b], corners, 11, 4, 3)
        torch.testing.assert_close(tokens[b], expected, atol=1e-5, rtol=1e-4)
        once = slow_targets(scores[b].half(), classes[b], corners, 11, 1, 1)[:, 0, 0]
        torch.testing.assert_close(whole[b], once, atol=1e-5, rtol=1e-4)


def test_the_whole_image_on_its_own_grid_is_the_map_itself():
    scores, classes = stored()
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(3, 4)
    tokens, whole = pool_maps(scores, classes, box, 11, (5, 6))
    maps = dense_maps(scores, classes, 11)
    torch.testing.assert_close(tokens, maps.softmax(1))
    torch.testing.assert_close(whole, maps.mean((2, 3)).softmax(1))


def test_classes_that_a_map_lacks_need_no_memory(monkeypatch):
    """With 1,000 classes the result is equal, bit for bit, to RoIAlign of maps of all classes."""
    shapes = []

    def recorded(maps, *args, **options):
        shapes.append(maps.shape)
        return roi_align(maps, *args, **options)

    monkeypatch.setattr(module, "roi_align", recorded)
    torch.manual_seed(1)
    scores, classes = stored(num_classes=11)
    classes = classes * 90
    tokens, whole = pool_maps(scores, classes, BOXES, 1000, (7, 7))
    assert {shape[1] for shape in shapes} == {11}
    numbered = torch.cat([torch.arange(3.0)[:, None], BOXES * torch.tensor([6.0, 5, 6, 5]) - 0.5], 1)
    dense = dense_maps(scores, classes, 1000)
    assert torch.equal(tokens, roi_align(dense, numbered, (7, 7)).softmax(1))
    assert torch.equal(whole, roi_align(dense, numbered, (1, 1))[..., 0, 0].softmax(1))


@pytest.mark.parametrize(("peak", "first", "second"), [(10.0, 0.30, 0.03), (8.0, 0.11, 0.02)])
def test_two_objects(peak, first, second):
    """Known figures: objects on 61 % and 39 % of an image with the same peak logit, 1,000 classes."""
    scores = torch.full((1, 10, 10, 1), peak)
    classes = torch.zeros(1, 10, 10, 1, dtype=torch.long)
    classes.view(-1)[61:] = 1
    _, whole = pool_maps(scores, classes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 1000, (7, 7))
    assert whole[0, :2].tolist() == [pytest.approx(first, abs=0.005), pytest.approx(second, abs=0.005)]
    after = smooth(whole, 0.1)[0, :2].tolist()
    assert after == [pytest.approx(0.9001 * value + 1e-4, abs=0.005) for value in (first, second)]


def test_without_any_score_the_target_is_uniform():
    """A place outside the picture, too, has no score."""
    scores, classes = torch.zeros(1, 3, 3, 2), torch.zeros(1, 3, 3, 2, dtype=torch.long)
    tokens, whole = pool_maps(scores, classes, BOXES[:1], 4, (2, 2))
    assert torch.equal(tokens, torch.full((1, 4, 2, 2), 0.25)) and torch.equal(whole, torch.full((1, 4), 0.25))


def test_smoothing():
    """t·(1 − ε + ε/K) + ε/K, which sums to 1 + ε/K."""
    assert smooth(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.2).tolist() == [pytest.approx([0.9, 0.05, 0.05, 0.05])]
    assert float(smooth(torch.tensor([0.5, 0.3, 0.2, 0.0])[None], 0.2).sum()) == pytest.approx(1.05)


def test_the_true_label_weighs_more_where_the_map_agrees():
    target = torch.tensor([[0.7, 0.2, 0.1], [0.7, 0.2, 0.1]])
    mixed = mix_ground_truth(target, torch.tensor([0, 2]), 0.3, agree=0.5, differ=0.1)
    on, off = 1.0 - 0.3 + 0.1 + 0.1, 0.1
    assert mixed[0].tolist() == pytest.approx([0.5 * 0.7 + 0.5 * on, 0.5 * 0.2 + 0.5 * off, 0.5 * 0.1 + 0.5 * off])
    assert mixed[1].tolist() == pytest.approx([0.9 * 0.7 + 0.1 * off, 0.9 * 0.2 + 0.1 * off, 0.9 * 0.1 + 0.1 * on])


def test_rectangles_are_lv_vit_s():
    """λ ~ Beta(1, 1), c = ⌊√(1−λ)·grid⌋, ⌊c/2⌋ cells to both sides of a uniform centre, clipped: drawn by hand."""
    for number in range(200):
        torch.manual_seed(number)
        box = MixTokenBox.sample((7, 5))
        torch.manual_seed(number)
        share = float(torch.distributions.Beta(1.0, 1.0).sample())
        height, width = math.floor(math.sqrt(1 - share) * 7), math.floor(math.sqrt(1 - share) * 5)
        y, x = int(torch.randint(7, ())), int(torch.randint(5, ()))
        cells = {(i, j) for i in range(7) for j in range(5)}
        rows = {y + step for step in range(-(height // 2), height // 2)}
        columns = {x + step for step in range(-(width // 2), width // 2)}
        inside = {(i, j) for i, j in cells if i in rows and j in columns}
        ours = {(i, j) for i, j in cells if box.top <= i < box.bottom and box.left <= j < box.right}
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
