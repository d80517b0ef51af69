"""CPU time per JPEG for decoding, augmentation and reading its label map: the figures of docs/scaling.md.

    python scripts/measure_decode.py [--images 200] [--output benchmarks/decode.json]

CPU seconds of one process, the fastest of five rounds, so that other work on the machine has little influence. The
JPEGs are synthetic and about as large as ImageNet's (500×375 pixels, 104 KB); use --folder PHOTOS for real ones.
"""

import argparse
import io
import json
import os
import platform
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from rmt.data.images import EXTENSIONS, read_image
from rmt.data.randomness import ORDER, permutation, seed_sample, seed_words
from rmt.data.token_labels.label_maps import INDEX, LabelMaps, LabelMapSpec, fingerprint, write_map_file
from rmt.data.token_labels.transforms import TokenLabelTransform
from rmt.data.transforms import eval_transform, train_transform


def synthetic_jpeg(seed: int, width: int = 500, height: int = 375) -> bytes:
    """Noise at several scales, about as compressible as a photo."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3))
    for cells, weight in ((4, 60), (16, 40), (64, 25), (192, 18)):
        noise = rng.normal(0, weight, (cells, cells, 3)).clip(-127, 127) + 128
        layer = Image.fromarray(noise.astype(np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
        picture += np.asarray(layer, float) - 128
    file = io.BytesIO()
    Image.fromarray((picture + 128).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


class Photos:
    """The encoded images as an image set of two classes."""

    classes = ("a", "b")

    def __init__(self, data: list[bytes]):
        self.data = data
        self.labels = np.arange(len(data)) % 2

    def __len__(self) -> int:
        return len(self.data)


def processor() -> str:
    """Name of the processor, as far as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def seconds_each(work, count: int) -> float:
    work(0)
    start = time.process_time()
    for i in range(count):
        seed_sample(seed_words(1, i))
        work(i)
    return (time.process_time() - start) / count


def label_maps(folder: Path, data: list[bytes], grid: int) -> LabelMaps:
    """Label maps for the images, with 1,000 classes."""
    photos = Photos(data)
    photos.classes = tuple(map(str, range(1000)))
    about = LabelMapSpec(
        teacher="none",
        weights="none",
        image_size=(224, 224),
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        interpolation="bicubic",
        num_classes=1000,
        grid=(grid, grid),
        top_k=5,
        images=len(data),
        fingerprint=fingerprint(photos),
        shard_images=10_000,
    )
    arrays = about.empty(0)
    arrays["sizes"][:] = [read_image(jpeg).size for jpeg in data]
    write_map_file(folder / about.file_name(0), arrays)
    (folder / INDEX).write_text(about.as_json())
    return LabelMaps(folder, photos)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "benchmarks/decode.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.folder:
        files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in EXTENSIONS)[: args.images]
        data = [path.read_bytes() for path in files]
    else:
        data = [synthetic_jpeg(i) for i in range(args.images)]
    decoded = [read_image(jpeg) for jpeg in data]
    train = train_transform(224, auto_augment="rand-m9-mstd0.5-inc1", erase_prob=0.25)
    evaluation = eval_transform(224)
    with tempfile.TemporaryDirectory() as name:
        grid = 14
        labelled = TokenLabelTransform(train, label_maps(Path(name), data, grid))
        count = len(data)
        functions = {
            "decode": lambda i: read_image(data[i]),
            "train transform 224²": lambda i: train(decoded[i]),
            "train transform 224² with label map": lambda i: labelled.with_targets(decoded[i], i, ""),
            "evaluation transform 224²": lambda i: evaluation(decoded[i]),
        }
        rounds = [{key: seconds_each(function, count) for key, function in functions.items()} for _ in range(5)]
        each = {key: min(one[key] for one in rounds) for key in functions}
    start = time.process_time()
    permutation(10_000_000, ORDER, 0)
    order = time.process_time() - start
    result = {
        "command": "python scripts/measure_decode.py",
        "images": len(data),
        "source": str(args.folder.name) if args.folder else "made up, 500×375",
        "mean_bytes": round(sum(map(len, data)) / len(data)),
        "cpu_ms_per_image": {key: round(1000 * value, 3) for key, value in each.items()},
        "images_per_s_and_core": {
            "training": round(1 / (each["decode"] + each["train transform 224²"]), 1),
            "training with label maps": round(1 / (each["decode"] + each["train transform 224² with label map"]), 1),
            "evaluation": round(1 / (each["decode"] + each["evaluation transform 224²"]), 1),
        },
        "seconds_to_order_ten_million_images": round(order, 2),
        "machine": {
            "cores": os.cpu_count(),
            "processor": processor(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "pillow": PIL.__version__,
        },
    }
    args.output.parent.mkdir(exist_ok=True)
    args.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
