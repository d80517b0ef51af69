"""Operations on image and map: the map moves as the image does."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import NAME_TO_OP, auto_augment_transform, rand_augment_transform

from rmt.data.token_labels.geometry import LabelledImage, move_maps

GEOMETRIC = ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY", "TranslateXRel", "TranslateYRel"]
CELL = 9  # pixels along a side of a cell; odd, so that a pixel's centre is the centre of the cell


def numbered(rows: int, columns: int) -> LabelledImage:
    """An image whose every cell has its own grey value, 1, 2, …, which is also the class on its map."""
    cells = np.arange(1, rows * columns + 1, dtype=np.int16).reshape(rows, columns)
    pixels = cells.repeat(CELL, 0).repeat(CELL, 1).astype(np.uint8)
    image = Image.fromarray(pixels)
    return LabelledImage(image, np.full((rows, columns, 1), 2.0, np.float16), cells[..., None], image.size)


def seen(labelled: LabelledImage) -> np.ndarray:
    """The class of each cell, 0 where the score is 0."""
    return np.where(labelled.scores[..., 0] == 2, labelled.classes[..., 0], 0)


def policy(name: str, magnitude: int = 7):
    """RandAugment with one operation, which is always applied."""
    return rand_augment_transform(f"rand-m{magnitude}-n1-p1", {"img_mean": 0, "interpolation": Image.NEAREST}, [name])


@pytest.mark.parametrize("name", GEOMETRIC)
@pytest.mark.parametrize("shape", [(11, 11), (12, 17)])
def test_the_map_moves_as_the_image(name, shape):
    """After timm's operation with the nearest pixel, the pixel at the centre of each cell shows the cell's class."""
    moves = policy(name)
    for op in moves.ops:
        op.hparams |= {"translate_const": 40}
    move_maps(moves)
    different = set()
    for seed in range(4):
        random.seed(seed)
        before = numbered(*shape)
        after = moves(before)
        centres = np.asarray(after.image)[CELL // 2 :: CELL, CELL // 2 :: CELL]
        assert np.array_equal(seen(after), centres)
        assert (centres == 0).any() and (centres != before.classes[..., 0]).any()
        different.add(seen(after).tobytes())
    assert len(different) == 2  # one for each sign


def test_several_operations_follow_each_other():
    moves = rand_augment_transform(
        "rand-m6-n4-p0.8-mstd0.5", {"img_mean": 0, "interpolation": Image.NEAREST}, GEOMETRIC[:3] + GEOMETRIC[5:]
    )
    move_maps(moves)
    for seed in range(20):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - RandAugment draws from the legacy generator
        after = moves(numbered(13, 13))
        centres = np.asarray(after.image)[CELL // 2 :: CELL, CELL // 2 :: CELL].astype(int)
        both = (centres > 0) & (seen(after) > 0)
        # each operation rounds to the nearest cell, at most about half a cell away
        for axis in (0, 1):
            row_or_column = [np.divmod(cells[both] - 1, 13)[axis] for cells in (centres, seen(after).astype(int))]
            assert np.abs(row_or_column[0] - row_or_column[1]).max(initial=0) <= 2
        assert ((centres > 0) == (seen(after) > 0)).mean() > 0.8


@pytest.mark.parametrize("name", sorted(set(NAME_TO_OP) - set(GEOMETRIC)))
def test_operations_on_colours_leave_the_map(name):
    moves = policy(name)
    move_maps(moves)
    before = numbered(5, 6)
    before = LabelledImage(before.image.convert("RGB"), before.scores, before.classes, before.whole)
    after = moves(before)
    assert after.scores is before.scores and after.classes is before.classes
    assert after.image is not before.image


@pytest.mark.parametrize(("name", "other"), [("ShearX", "ShearY"), ("ShearY", "ShearX"), ("Rotate", "Rotate")])
def test_lv_vit_s_exchanged_shears(name, other):
    swapped, plain, alone = policy(name), policy(other), policy(name)
    move_maps(swapped, swap_axes=True)
    move_maps(plain)
    results = []
    for moves, argument in ((swapped, numbered(9, 9)), (plain, numbered(9, 9)), (alone, numbered(9, 9).image)):
        random.seed(3)
        results.append(moves(argument))
    assert np.array_equal(seen(results[0]), seen(results[1]))
    assert results[0].image.tobytes() == results[2].tobytes()


def test_a_mirrored_part_stays_in_its_place():
    """The part of the image is columns 3 to 7 of 12; after the flip it is columns 5 to 9 of the mirrored whole."""
    whole = numbered(2, 12)
    image = whole.image.crop((3 * CELL, 0, 7 * CELL, 2 * CELL))
    part = LabelledImage(image, whole.scores, whole.classes, whole.whole, (3 * CELL, 0)).mirrored()
    assert part.corner == (5 * CELL, 0)
    shown = np.asarray(part.image)[CELL // 2 :: CELL, CELL // 2 :: CELL]
    assert np.array_equal(seen(part)[:, 5:9], shown)
    moved = part.moved(part.image, (1, 0, CELL, 0, 1, 0))  # one cell to the left
    assert np.array_equal(seen(moved)[:, 5:8], shown[:, 1:])
    assert (seen(moved)[:, 8] == 0).all()  # it shows column 9, which is outside the part


def test_policies_of_timm():
    for name in ("original", "v0"):
        move_maps(auto_augment_transform(name, {"img_mean": 0}))
    moves = policy("Rotate")
    move_maps(moves)
    random.seed(0)
    expected = moves(numbered(9, 9))
    random.seed(0)
    assert np.array_equal(seen(pickle.loads(pickle.dumps(moves))(numbered(9, 9))), seen(expected))  # for workers


def test_an_operation_that_is_not_known_is_refused():
    moves = policy("Rotate")
    moves.ops[0].aug_fn = print
    with pytest.raises(ValueError, match="cannot follow the operation Rotate"):
        move_maps(moves)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (2, 3)])
def test_a_mirrored_map_becomes_a_tensor(shape):
    """Also of one column, as an image of 32 pixels has, whose flipped view NumPy calls contiguous."""
    before = numbered(*shape)
    after = before.mirrored()
    assert np.array_equal(torch.from_numpy(after.classes).numpy(), before.classes[:, ::-1])
    assert np.array_equal(torch.from_numpy(after.scores).numpy(), before.scores[:, ::-1])
