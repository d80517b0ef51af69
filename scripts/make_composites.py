"""Make labelled images by pasting stamps of Tux Paint on photographs of MATE; both are Debian packages.

    apt-get install tuxpaint-stamps-default mate-backgrounds
    python scripts/make_composites.py --output composites [--format ade20k|coco|folders] [--size 96] [--train 2000]

An image is a crop of a photograph with one to four stamps on it. The alpha channel of a stamp is its mask, and stamps
in front hide those behind. The classes are stamp folders. Stamps and photographs are divided between the two splits
before, so that no file and no two files of equal content are in both; `sources.json` lists them.

`ade20k` writes `images/{training,validation}/*.jpg`, `annotations/…/*.png` and `classes.txt`: mask value 0 is unused
(ADE20K's "ignore"), 1 is the background, 2 the first stamp class. `coco` writes the same images as `train/` and
`val/` with `annotations/instances_{train,val}.json`, with masks as run lengths, which are exact; `coco-object` does
too, with one class for all stamps. `folders` pastes one stamp on each image and writes `{train,val}/CLASS/*.png`, for
classifiers. Every image is a function of (seed, split, number), so a larger set begins with the same images.
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
SPLITS = {"train": "training", "val": "validation"}  # our name: ADE20K's
VAL_SHARE = 0.25  # of the stamps of each class, and of the photographs
MIN_FILL = 0.25  # stamps that fill less of their box, such as outlined letters, are left out
OPAQUE = 128  # alpha from which a pixel belongs to the stamp
MIN_VISIBLE = 0.4  # of every stamp; one that would hide more of another is not pasted


@dataclass(frozen=True)
class Sources:
    """The files of one split."""

    stamps: dict[str, list[Path]]  # by class name
    photos: list[Path]


@dataclass(frozen=True)
class Composite:
    """An image and the stamps on it: class index and visible mask, bool (H, W), front to back."""

    image: Image.Image
    stamps: list[tuple[int, np.ndarray]]

    def class_map(self) -> np.ndarray:
        """(H, W) uint8: 1 background, 2 + class on a stamp."""
        values = np.ones(self.image.size[::-1], dtype=np.uint8)
        for number, mask in self.stamps:
            values[mask] = 2 + number
        return values


def split_sources(stamps: Path, photos: Path, seed: int, classes: dict[str, str] = CLASSES) -> dict[str, Sources]:
    """Divide the files between the splits: `VAL_SHARE` of the contents of each class and of the photos go to `val`."""
    found = {name: _usable_stamps(stamps / folder) for name, folder in classes.items()}
    found["photo"] = sorted(photos.glob("*.jpg"))
    too_few = [name for name, files in found.items() if len(files) < 4]
    if too_few:
        raise SystemExit(
            f"too few files for {', '.join(too_few)} below {stamps} and {photos}: are the packages installed?"
        )
    split_of: dict[str, str] = {}  # content -> split, so that a file of two classes is in the same split for both
    divided = {split: dict[str, list[Path]]() for split in SPLITS}
    for number, (name, files) in enumerate(found.items()):
        by_content = defaultdict(list)
        for file in files:
            by_content[hashlib.sha256(file.read_bytes()).hexdigest()].append(file)
        contents = list(by_content)
        np.random.default_rng([seed, number]).shuffle(contents)
        for place, content in enumerate(contents):
            split_of.setdefault(content, "val" if place < max(1, round(VAL_SHARE * len(contents))) else "train")
            divided[split_of[content]].setdefault(name, []).extend(by_content[content])
    return {
        split: Sources({name: sorted(lists[name]) for name in classes}, lists["photo"])
        for split, lists in divided.items()
    }


def _usable_stamps(folder: Path) -> list[Path]:
    """The stamps of a folder whose alpha channel is a shape: not outlines, not images without transparency."""
    kept = []
    for file in sorted(folder.rglob("*.png")):
        with Image.open(file) as image:
            if not image.has_transparency_data:
                continue
            alpha = image.convert("RGBA").getchannel("A").point(lambda value: 255 * (value >= OPAQUE))
        box = alpha.getbbox()
        if box and np.mean(np.asarray(alpha.crop(box)) > 0) >= MIN_FILL:
            kept.append(file)
    return kept


def compose(
    sources: Sources, size: int, rng: np.random.Generator, sides: tuple[float, float] = (0.3, 0.6), most: int = 4
) -> Composite:
    """Make an image of `size`² pixels with up to `most` stamps; `sides` is the range of their relative long sides."""
    image = _random_crop(sources.photos[rng.integers(len(sources.photos))], size, rng)
    layers: list[tuple[int, np.ndarray]] = []  # back to front
    for _ in range(rng.integers(1, most + 1)):
        number = int(rng.integers(len(sources.stamps)))
        files = list(sources.stamps.values())[number]
        stamp = _scaled(files[rng.integers(len(files))], round(size * rng.uniform(*sides)))
        max_x, max_y = size - stamp.width, size - stamp.height
        place = (int(rng.integers(max_x + 1)), int(rng.integers(max_y + 1)))
        covered = np.zeros((size, size), dtype=bool)
        rows, columns = slice(place[1], place[1] + stamp.height), slice(place[0], place[0] + stamp.width)
        covered[rows, columns] = np.asarray(stamp.getchannel("A")) >= OPAQUE
        behind = [(other, mask & ~covered) for other, mask in layers]
        if any(left.sum() < MIN_VISIBLE * mask.sum() for (_, left), (_, mask) in zip(behind, layers, strict=True)):
            continue  # it would hide too much of another one
        layers = [*behind, (number, covered)]
        image.paste(stamp, place, stamp)
    return Composite(image, layers[::-1])


def _random_crop(photo: Path, size: int, rng: np.random.Generator) -> Image.Image:
    """A random square crop of a photograph, of a third to all of its height, resized."""
    full = _decoded_photo(photo, size)
    side = round(min(full.size) * rng.uniform(1 / 3, 1))
    left, top = (int(rng.integers(length - side + 1)) for length in full.size)
    return full.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))


@lru_cache(maxsize=32)
def _decoded_photo(photo: Path, size: int) -> Image.Image:
    with Image.open(photo) as image:
        image.draft("RGB", (4 * size, 4 * size))  # JPEG decodes faster at a fraction of its size
        return image.convert("RGB")


def _scaled(file: Path, longest: int) -> Image.Image:
    """A stamp, RGBA, resized to `longest` pixels on its long side."""
    stamp = _decoded_stamp(file)
    scale = longest / max(stamp.size)
    return stamp.resize(
        (max(1, round(stamp.width * scale)), max(1, round(stamp.height * scale))), Image.Resampling.LANCZOS
    )


@lru_cache(maxsize=512)
def _decoded_stamp(file: Path) -> Image.Image:
    """A stamp, RGBA, cropped to its content."""
    with Image.open(file) as image:
        stamp = image.convert("RGBA")
    return stamp.crop(stamp.getchannel("A").point(lambda value: 255 * (value >= OPAQUE)).getbbox())


def run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths of a bool (H, W) mask: column by column, beginning with a run of zeros."""
    values = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(values[1:] != values[:-1])
    ends = np.append(changes, mask.size)
    return np.diff(np.concatenate([[0], ends])).tolist()


def write_ade20k(folder: Path, split: str, composites: Iterable[Composite], classes: list[str]) -> None:
    images, masks = folder / "images" / SPLITS[split], folder / "annotations" / SPLITS[split]
    images.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number, composite in enumerate(composites):
        composite.image.save(images / f"{number:05}.jpg", quality=95)
        Image.fromarray(composite.class_map()).save(masks / f"{number:05}.png", optimize=True)
    (folder / "classes.txt").write_text("\n".join(["background", *classes]) + "\n", encoding="utf-8")


def write_coco(
    folder: Path, split: str, composites: Iterable[Composite], classes: list[str], one_class: bool = False
) -> None:
    (folder / split).mkdir(parents=True)
    (folder / "annotations").mkdir(exist_ok=True)
    images, annotations = [], []
    for number, composite in enumerate(composites):
        name = f"{number:05}.jpg"
        composite.image.save(folder / split / name, quality=95)
        height, width = composite.image.height, composite.image.width
        images.append({"id": number + 1, "file_name": name, "height": height, "width": width})
        for label, mask in composite.stamps:
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


def write_folders(folder: Path, split: str, composites: Iterable[Composite], classes: list[str]) -> None:
    for number, composite in enumerate(composites):
        ((label, _),) = composite.stamps
        place = folder / split / classes[label]
        place.mkdir(parents=True, exist_ok=True)
        composite.image.save(place / f"{number:05}.png")


WRITERS = {
    "ade20k": write_ade20k,
    "coco": write_coco,
    "coco-object": partial(write_coco, one_class=True),
    "folders": write_folders,
}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder to create")
    parser.add_argument("--format", choices=WRITERS, default="ade20k")
    parser.add_argument("--size", type=int, default=96, help="side of the images in pixels")
    parser.add_argument("--train", type=int, default=2000, help="number of training images")
    parser.add_argument("--val", type=int, default=400, help="number of validation images")
    parser.add_argument(
        "--stamp-sides",
        type=float,
        nargs=2,
        default=(0.3, 0.6),
        metavar=("LEAST", "MOST"),
        help="range of the long side of a stamp, relative to the image",
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
    sources = split_sources(args.stamps, args.backgrounds, args.seed, classes)
    for number, (split, count) in enumerate({"train": args.train, "val": args.val}.items()):
        rngs = (np.random.default_rng([args.seed, number, place]) for place in range(count))
        most = 1 if args.format == "folders" else 4
        composites = (compose(sources[split], args.size, rng, tuple(args.stamp_sides), most) for rng in rngs)
        WRITERS[args.format](args.output, split, composites, list(classes))
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
