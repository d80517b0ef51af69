"""Make labelled pictures from real ones that Debian ships: stamps of Tux Paint on photographs of MATE.

    apt-get install tuxpaint-stamps-default mate-backgrounds
    python scripts/make_composites.py --output composites [--format ade20k|coco|folders] [--size 96] [--train 2000]

A picture is a piece of a photograph with one to four stamps on it; a stamp's alpha channel is its mask, and a stamp
further to the front hides what lies behind it. The classes are stamp folders. Before anything is drawn, stamps and
photographs are dealt to the two splits, so that no file and no two files of equal content serve both; `sources.json`
lists which were used where.

`ade20k` writes `images/{training,validation}/*.jpg`, `annotations/…/*.png` and `classes.txt`: mask value 0 is unused
(ADE20K's "ignore"), 1 is the background, 2 the first stamp class. `coco` writes the same pictures as `train/` and
`val/` with `annotations/instances_{train,val}.json`, masks as run lengths, which are exact; `coco-object` too, all
stamps being of one class. `folders` puts one stamp on each picture and writes `{train,val}/CLASS/*.png`, for
classifiers. Every picture is a function of (seed, split, number): more of them leave the first ones as they are.
"""

import argparse
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {
    "letter": "symbols/alphabets",
    "chess piece": "symbols/chess",
    "money": "symbols/money",
    "bird": "animals/birds",
    "insect": "animals/insects",
    "mammal": "animals/mammals",
    "flower": "plants/flowers",
    "fruit": "food/fruit",
    "house": "town/houses",
    "road sign": "town/roadsigns",
    "planet": "space/planets",
    "vehicle": "vehicles",
}
SPLITS = {"train": "training", "val": "validation"}  # ours: ADE20K's
VAL_SHARE = 0.25  # of each class's stamps, and of the photographs
THINNEST = 0.25  # outlined letters and the like, whose alpha fills less of their box, are left out
OPAQUE = 128  # alpha from which a pixel belongs to the stamp
LEAST_SEEN = 0.4  # a stamp of which less would stay visible is taken away


@dataclass(frozen=True)
class Sources:
    """The files of one split."""

    stamps: dict[str, list[Path]]  # by class name
    photos: list[Path]


@dataclass(frozen=True)
class Composite:
    """A picture, and the stamps on it: class number (0…) and visible mask, bool (H, W), front to back."""

    image: Image.Image
    stamps: list[tuple[int, np.ndarray]]

    def class_map(self) -> np.ndarray:
        """(H, W) uint8: 1 background, 2 + class on a stamp."""
        values = np.ones(self.image.size[::-1], dtype=np.uint8)
        for number, mask in self.stamps:
            values[mask] = 2 + number
        return values


def deal(stamps: Path, photos: Path, seed: int, classes: dict[str, str] = CLASSES) -> dict[str, Sources]:
    """The files of each split: per class, and among the photographs, `VAL_SHARE` of the different contents."""
    found = {name: _cut_outs(stamps / folder) for name, folder in classes.items()}
    found["photo"] = sorted(photos.glob("*.jpg"))
    wanting = [name for name, files in found.items() if len(files) < 4]
    if wanting:
        raise SystemExit(f"too few files for {', '.join(wanting)} below {stamps} and {photos}: are the packages there?")
    side: dict[str, str] = {}  # content -> split; a file that two classes share goes to one side for both
    dealt = {split: dict[str, list[Path]]() for split in SPLITS}
    for number, (name, files) in enumerate(found.items()):
        by_content = defaultdict(list)
        for file in files:
            by_content[hashlib.sha256(file.read_bytes()).hexdigest()].append(file)
        contents = list(by_content)
        np.random.default_rng([seed, number]).shuffle(contents)
        for place, content in enumerate(contents):
            side.setdefault(content, "val" if place < max(1, round(VAL_SHARE * len(contents))) else "train")
            dealt[side[content]].setdefault(name, []).extend(by_content[content])
    return {
        split: Sources({name: sorted(lists[name]) for name in classes}, lists["photo"])
        for split, lists in dealt.items()
    }


def _cut_outs(folder: Path) -> list[Path]:
    """The stamps of a folder whose alpha channel is a shape: no outlines, no picture without transparency."""
    kept = []
    for file in sorted(folder.rglob("*.png")):
        with Image.open(file) as image:
            if not image.has_transparency_data:
                continue
            alpha = image.convert("RGBA").getchannel("A").point(lambda value: 255 * (value >= OPAQUE))
        box = alpha.getbbox()
        if box and np.mean(np.asarray(alpha.crop(box)) > 0) >= THINNEST:
            kept.append(file)
    return kept


def compose(
    sources: Sources, size: int, draw: np.random.Generator, sides: tuple[float, float] = (0.3, 0.6), most: int = 4
) -> Composite:
    """One picture of `size` pixels a side with up to `most` stamps, their long sides between `sides` of that."""
    picture = _piece(sources.photos[draw.integers(len(sources.photos))], size, draw)
    layers: list[tuple[int, np.ndarray]] = []  # back to front
    for _ in range(draw.integers(1, most + 1)):
        number = int(draw.integers(len(sources.stamps)))
        files = list(sources.stamps.values())[number]
        stamp = _scaled(files[draw.integers(len(files))], round(size * draw.uniform(*sides)))
        across, down = size - stamp.width, size - stamp.height
        place = (int(draw.integers(across + 1)), int(draw.integers(down + 1)))
        covered = np.zeros((size, size), dtype=bool)
        rows, columns = slice(place[1], place[1] + stamp.height), slice(place[0], place[0] + stamp.width)
        covered[rows, columns] = np.asarray(stamp.getchannel("A")) >= OPAQUE
        behind = [(other, mask & ~covered) for other, mask in layers]
        if any(left.sum() < LEAST_SEEN * mask.sum() for (_, left), (_, mask) in zip(behind, layers, strict=True)):
            continue  # it would hide another one
        layers = [*behind, (number, covered)]
        picture.paste(stamp, place, stamp)
    return Composite(picture, layers[::-1])


def _piece(photo: Path, size: int, draw: np.random.Generator) -> Image.Image:
    """A square piece of a photograph, of a third to all of its height."""
    whole = _decoded_photo(photo, size)
    side = round(min(whole.size) * draw.uniform(1 / 3, 1))
    left, top = (int(draw.integers(length - side + 1)) for length in whole.size)
    return whole.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


@lru_cache(maxsize=32)
def _decoded_photo(photo: Path, size: int) -> Image.Image:
    with Image.open(photo) as image:
        image.draft("RGB", (4 * size, 4 * size))  # JPEG decodes at a fraction of its size many times faster
        return image.convert("RGB")


def _scaled(file: Path, longest: int) -> Image.Image:
    """A stamp, its long side `longest` pixels, RGBA."""
    stamp = _decoded_stamp(file)
    scale = longest / max(stamp.size)
    return stamp.resize(
        (max(1, round(stamp.width * scale)), max(1, round(stamp.height * scale))), Image.Resampling.LANCZOS
    )


@lru_cache(maxsize=512)
def _decoded_stamp(file: Path) -> Image.Image:
    """A stamp without its empty border."""
    with Image.open(file) as image:
        stamp = image.convert("RGBA")
    return stamp.crop(stamp.getchannel("A").point(lambda value: 255 * (value >= OPAQUE)).getbbox())


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a bool (H, W) mask: down the columns, beginning with a run of zeros."""
    values = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(values[1:] != values[:-1])
    ends = np.append(changes, mask.size)
    return np.diff(np.concatenate([[0], ends])).tolist()


def write_ade20k(folder: Path, split: str, pictures: Iterable[Composite], classes: list[str]) -> None:
    images, masks = folder / "images" / SPLITS[split], folder / "annotations" / SPLITS[split]
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.image.save(images / f"{number:05}.jpg", quality=95)
        Image.fromarray(picture.class_map()).save(masks / f"{number:05}.png", optimize=True)
    (folder / "classes.txt").write_text("\n".join(["background", *classes]) + "\n", encoding="utf-8")


def write_coco(
    folder: Path, split: str, pictures: Iterable[Composite], classes: list[str], one_class: bool = False
) -> None:
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, picture in enumerate(pictures):
        name = f"{number:05}.jpg"
        picture.image.save(folder / split / name, quality=95)
        height, width = picture.image.height, picture.image.width
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for label, mask in picture.stamps:
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            left, top = int(columns[0]), int(rows[0])
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": 1 if one_class else label + 1,
                    "bbox": [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": [height, width], "counts": run_lengths(mask)},
                }
            )
    names = ["object"] if one_class else classes
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content), encoding="utf-8")


def write_folders(folder: Path, split: str, pictures: Iterable[Composite], classes: list[str]) -> None:
    for number, picture in enumerate(pictures):
        ((label, _),) = picture.stamps
        place = folder / split / classes[label]
        place.mkdir(parents=True, exist_ok=True)
        picture.image.save(place / f"{number:05}.png")


WRITERS = {
    "ade20k": write_ade20k,
    "coco": write_coco,
    "coco-object": partial(write_coco, one_class=True),
    "folders": write_folders,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="the folder to make")
    parser.add_argument("--format", choices=WRITERS, default="ade20k")
    parser.add_argument("--size", type=int, default=96, help="side of the pictures in pixels")
    parser.add_argument("--train", type=int, default=2000, help="pictures to train on")
    parser.add_argument("--val", type=int, default=400, help="pictures to judge on")
    parser.add_argument(
        "--stamp-sides",
        type=float,
        nargs=2,
        default=(0.3, 0.6),
        metavar=("LEAST", "MOST"),
        help="long side of a stamp, as a part of the picture's",
    )
    parser.add_argument(
        "--classes",
        nargs="+",
        metavar="NAME=FOLDER",
        default=[f"{name}={folder}" for name, folder in CLASSES.items()],
        help="the classes, and the stamp folder of each; by default %(default)s",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stamps", type=Path, default=Path("/usr/share/tuxpaint/stamps"))
    parser.add_argument("--backgrounds", type=Path, default=Path("/usr/share/backgrounds/mate/nature"))
    args = parser.parse_args(argv)
    if args.output.exists() and any(args.output.iterdir()):
        raise SystemExit(f"{args.output} is not empty")
    classes = dict(entry.partition("=")[::2] for entry in args.classes)
    sources = deal(args.stamps, args.backgrounds, args.seed, classes)
    for number, (split, count) in enumerate({"train": args.train, "val": args.val}.items()):
        draws = (np.random.default_rng([args.seed, number, place]) for place in range(count))
        most = 1 if args.format == "folders" else 4
        pictures = (compose(sources[split], args.size, draw, tuple(args.stamp_sides), most) for draw in draws)
        WRITERS[args.format](args.output, split, pictures, list(classes))
    used = {
        split: {
            "photos": [file.name for file in of.photos],
            "stamps": {
                name: [str(file.relative_to(args.stamps)) for file in files] for name, files in of.stamps.items()
            },
        }
        for split, of in sources.items()
    }
    (args.output / "sources.json").write_text(json.dumps(used, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
