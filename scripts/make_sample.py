"""Make the built-in sample: a class-balanced part of Fashion-MNIST as two parquet files.

    apt-get install dataset-fashion-mnist
    python scripts/make_sample.py [--source /usr/share/datasets/fashion-mnist] [--output src/rmt/data/sample]

The first 800 images of each class of the training set and the first 200 of each class of the test set, in the order
of the original files; nothing is random. With the versions in constraints.txt a second run writes the same bytes;
other versions of Pillow or Arrow may compress differently, but the pixels are the same.
"""

import argparse
import gzip
import io
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
SPLITS = {"train": ("train", 800), "test": ("t10k", 200)}  # our name: (theirs, images per class)
FEATURES = Features({"image": Image(), "label": ClassLabel(names=list(CLASSES))})


def read_idx(path: Path) -> np.ndarray:
    """Read an array in IDX format: two zero bytes, type (8 = uint8), number of axes, big-endian sizes, values."""
    data = gzip.decompress(path.read_bytes())
    zero, kind, axes = struct.unpack(">HBB", data[:4])
    if (zero, kind) != (0, 8):
        raise SystemExit(f"{path}: not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    return np.frombuffer(data, np.uint8, offset=4 + 4 * axes).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of the first `count` samples of each class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == label)[:count] for label in range(len(CLASSES))]))


def png(pixels: np.ndarray) -> bytes:
    """Encode `pixels` (28, 28) uint8 as a greyscale PNG."""
    file = io.BytesIO()
    PILImage.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def pack(source: Path, output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for split, (theirs, per_class) in SPLITS.items():
        images = read_idx(source / f"{theirs}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{theirs}-labels-idx1-ubyte.gz")
        chosen = first_of_each_class(labels, per_class)
        rows = {
            "image": [{"bytes": png(images[i]), "path": f"{theirs}-{i:05d}.png"} for i in chosen],
            "label": labels[chosen].astype(int).tolist(),
        }
        # `datasets` builds the table, so that its features are in the metadata; pyarrow writes it, so that the layout
        # (one row group per 1,000 rows, zstd) does not depend on the defaults of `datasets`.
        table = Dataset.from_dict(rows, features=FEATURES).data.table
        target = output / f"{split}-00000-of-00001.parquet"
        pq.write_table(table, target, compression="zstd", compression_level=19, row_group_size=1000)
        print(f"{target}: {len(chosen):,} images, {target.stat().st_size:,} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "src/rmt/data/sample")
    args = parser.parse_args()
    if not args.source.is_dir():
        raise SystemExit(f"{args.source}: no such folder; apt-get install dataset-fashion-mnist")
    pack(args.source, args.output)


if __name__ == "__main__":
    main()
