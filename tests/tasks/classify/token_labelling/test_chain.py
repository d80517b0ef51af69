"""Token labelling as a whole, image and map in, targets out, against a slow re-computation in plain loops.

The re-computation shares nothing with the package but timm's operations on images and the order of the random draws.
"""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import LEVEL_TO_ARG, NAME_TO_OP
from timm.data.transforms import RandomResizedCropAndInterpolation

from rmt.data.token_labels.transforms import TokenLabelTransform
from rmt.data.transforms import train_transform
from rmt.tasks.classify.token_labelling.targets import pool_maps, smooth

AUGMENT = "rand-m9-mstd0.5-inc1"
CLASSES, SMOOTHING, GRID = 12, 0.1, (4, 4)


class OneMap:
    """The same map for every image."""

    def __init__(self, scores, classes):
        self.scores, self.classes = scores, classes

    def load(self, index, size, name=""):
        return self.scores, self.classes


def seed(number):
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 - what timm's augmentations draw from
    torch.manual_seed(number)


def noise(width, height):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def random_map(height, width, k):
    draw = np.random.default_rng(1)
    classes = np.stack([[draw.permutation(CLASSES)[:k] for _ in range(width)] for _ in range(height)])
    return draw.normal(2, 4, (height, width, k)).astype(np.float16), classes.astype(np.int16)


# The slow re-computation ----------------------------------------------------------------------------------------------


def slow_targets(number, image, scores, classes, image_size, swap_axes):
    """Image, targets of the tokens (K, 4, 4) and of the class (K,) from these seeds; the map as a dict per place."""
    seed(number)
    height, width, k = scores.shape
    cells = {
        (row, column): {int(classes[row, column, i]): float(scores[row, column, i]) for i in range(k)}
        for row in range(height)
        for column in range(width)
    }
    if torch.rand(1) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        cells = {(row, column): cells[row, width - 1 - column] for row, column in cells}
    ops = train_transform(image_size, auto_augment=AUGMENT).transforms[3].transforms[0].ops
    for op in np.random.choice(ops, 2):  # noqa: NPY002
        if random.random() > 0.5:
            continue
        level = max(0.0, min(random.gauss(9, 0.5), 10.0))
        to_arguments = LEVEL_TO_ARG[op.name]
        arguments = to_arguments(level, op.hparams) if to_arguments else ()
        before = image.size
        image = NAME_TO_OP[op.name](image, *arguments, **op.kwargs) if "oster" not in op.name else image
        assert image.size == before
        cells = slow_move(op.name, arguments, cells, height, width, image.size, swap_axes)
    crop = RandomResizedCropAndInterpolation(image_size, interpolation="bicubic")
    top, left, crop_height, crop_width = crop.get_params(image, crop.scale, crop.ratio)
    corners = (left / image.width, top / image.height)
    corners += ((left + crop_width) / image.width, (top + crop_height) / image.height)
    if swap_axes:
        corners = (corners[1], corners[0], corners[3], corners[2])
    x1, y1, x2, y2 = (corner * side - 0.5 for corner, side in zip(corners, (width, height, width, height), strict=True))
    tokens, whole = (slow_pool(cells, height, width, x1, y1, x2, y2, *grid) for grid in (GRID, (1, 1)))
    return tokens, whole[:, 0, 0]


def slow_move(name, arguments, cells, height, width, size, swap_axes):
    """Each place takes what the operation shows at its centre; nothing outside the image."""
    if swap_axes and name in ("ShearX", "ShearY"):
        name = {"ShearX": "ShearY", "ShearY": "ShearX"}[name]
    moved = {}
    for row, column in cells:
        x, y = (column + 0.5) * size[0] / width, (row + 0.5) * size[1] / height
        if name == "ShearX":
            x = x + arguments[0] * y
        elif name == "ShearY":
            y = y + arguments[0] * x
        elif name == "TranslateXRel":
            x = x + arguments[0] * size[0]
        elif name == "TranslateYRel":
            y = y + arguments[0] * size[1]
        elif name == "Rotate":
            angle, across, down = math.radians(arguments[0]), x - size[0] / 2, y - size[1] / 2
            x = size[0] / 2 + math.cos(angle) * across - math.sin(angle) * down
            y = size[1] / 2 + math.sin(angle) * across + math.cos(angle) * down
        inside = 0 <= x < size[0] and 0 <= y < size[1]
        moved[row, column] = cells[int(y * height / size[1]), int(x * width / size[0])] if inside else {}
    return moved


def slow_pool(cells, height, width, x1, y1, x2, y2, rows, columns):
    """Logits averaged over bilinear samples, softmax over all classes, smoothing: (K, rows, columns)."""
    bin_height, bin_width = max(y2 - y1, 1.0) / rows, max(x2 - x1, 1.0) / columns
    down, across = math.ceil(bin_height), math.ceil(bin_width)
    targets = np.zeros((CLASSES, rows, columns))
    for i in range(rows):
        for j in range(columns):
            logits = [0.0] * CLASSES
            for a in range(down):
                for b in range(across):
                    y = y1 + (i + (a + 0.5) / down) * bin_height
                    x = x1 + (j + (b + 0.5) / across) * bin_width
                    for (row, column), weight in bilinear(y, x, height, width):
                        for label, score in cells[row, column].items():
                            logits[label] += weight * score / (down * across)
            total = sum(math.exp(logit) for logit in logits)
            for label in range(CLASSES):
                share = math.exp(logits[label]) / total
                targets[label, i, j] = share * (1 - SMOOTHING + SMOOTHING / CLASSES) + SMOOTHING / CLASSES
    return torch.from_numpy(targets)


def bilinear(y, x, height, width):
    """The four cells around a point and their weights; the centre of the first cell is (0, 0)."""
    if not (-1 <= y <= height and -1 <= x <= width):
        return []
    y, x = min(max(y, 0.0), height - 1), min(max(x, 0.0), width - 1)
    row, column = int(y), int(x)
    below, right = min(row + 1, height - 1), min(column + 1, width - 1)
    dy, dx = y - row, x - column
    return [
        ((row, column), (1 - dy) * (1 - dx)),
        ((row, right), (1 - dy) * dx),
        ((below, column), dy * (1 - dx)),
        ((below, right), dy * dx),
    ]


# ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("swap_axes", [False, True])
def test_targets_equal_the_slow_re_computation(swap_axes):
    image, (scores, classes) = noise(90, 70), random_map(9, 11, 3)
    plain = train_transform(128, auto_augment=AUGMENT)
    transform = TokenLabelTransform(plain, OneMap(scores, classes), swap_axes=swap_axes)
    batch, expected = [], []
    for number in range(24):
        seed(number)
        batch.append(transform.with_targets(image, 0, "")[1])
        expected.append(slow_targets(number, image, scores, classes, 128, swap_axes))
    maps = (torch.stack([entry[name] for entry in batch]) for name in ("map_scores", "map_classes", "box"))
    tokens, whole = (smooth(part, SMOOTHING) for part in pool_maps(*maps, CLASSES, GRID, swap_axes=swap_axes))
    for number, (slow_tokens, slow_whole) in enumerate(expected):
        torch.testing.assert_close(tokens[number].double(), slow_tokens, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(whole[number].double(), slow_whole, atol=1e-5, rtol=1e-4)
    moved = sum(
        not np.array_equal(np.sort(entry["map_scores"].numpy(), None), np.sort(scores, None)) for entry in batch
    )
    assert moved >= 8  # in a third of the images at least, RandAugment moved the map


COLOURS = torch.tensor([[250.0, 20, 20], [20, 250, 20], [20, 20, 250], [240, 240, 20]])


def four_fields(side):
    """The four quarters of an image in four colours, and a map with the class of each."""
    quarter = (np.arange(side)[:, None] >= side // 2) * 2 + (np.arange(side)[None] >= side // 2)
    classes = quarter[4 :: side // 16, 4 :: side // 16].astype(np.int16)
    return Image.fromarray(COLOURS.numpy().astype(np.uint8)[quarter]), classes[..., None]


def test_the_targets_name_what_the_image_shows():
    """Of the tokens whose pixels have one colour, the target is the class of the colour, whatever RandAugment did.

    If maps stayed where they are, about a tenth of these tokens would have another class.
    """
    image, classes = four_fields(160)
    scores = np.full(classes.shape, 8.0, np.float16)
    mean = (127 / 255,) * 3
    plain = train_transform(224, auto_augment=AUGMENT, mean=mean, std=(1 / 255,) * 3, hflip=0.0)
    for op in plain.transforms[3].transforms[0].ops:
        if op.name not in ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"):
            op.prob = 0.0  # it would change the colours
    transform = TokenLabelTransform(plain, OneMap(scores, classes))
    right = still = total = 0
    for number in range(80):
        seed(number)
        tensor, entry = transform.with_targets(image, 0, "")
        maps = (entry[name][None] for name in ("map_scores", "map_classes", "box"))
        target = pool_maps(*maps, 4, (7, 7))[0][0].argmax(0)
        patches = (
            (tensor + 127).unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 3, 4, 0).flatten(2, 3)
        )  # (7, 7, n, 3)
        nearest = (patches[..., None, :] - COLOURS).abs().amax(-1) < 12
        alone = nearest.all(2)  # (7, 7, 4): all pixels of the token have this colour
        shown, clear = alone.int().argmax(-1), alone.any(-1)
        right += int((target == shown)[clear].sum())
        total += int(clear.sum())
        fixed = torch.from_numpy(scores)[None], torch.from_numpy(classes)[None], entry["box"][None]
        still += int((pool_maps(*fixed, 4, (7, 7))[0][0].argmax(0) == shown)[clear].sum())
    assert total > 2000
    assert right / total > 0.998
    assert 0.85 < still / total < 0.94
