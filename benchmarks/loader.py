"""CPU time per image of loaders at 224², in interleaved rounds of one process: the table of docs/scaling.md.

    python benchmarks/loader.py --folder PHOTOS [--output benchmarks/loader.json]

PHOTOS has one folder of JPEGs per class. CPU seconds of the process are counted, up to batches that can travel to the
device: normalised float32 with Pillow, as long as that was the only loader, otherwise uint8. WebDataset is measured if
it is installed.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import timm.data
import torch

from rmt.benchmark.machine import describe
from rmt.data.image_loader import ImageLoader
from rmt.data.images import read_image
from rmt.data.randomness import seed_sample, seed_words
from rmt.data.sets import ImageSet
from rmt.data.sources.folders import FolderSet
from rmt.data.sources.packing import pack
from rmt.data.splits import open_splits
from rmt.data.transforms import _allow_posterize_0, train_transform
from rmt.data.uint8_transforms import Uint8Transform

BATCH = 32
AUGMENTATIONS = {
    "crop and flip": {"auto_augment": "", "erase_prob": 0.0},
    "the paper's": {"auto_augment": "rand-m9-mstd0.5-inc1", "erase_prob": 0.25},
}
Epoch = Callable[[], Iterator]


def of_ours(images: ImageSet, augmentation: str, loader: str) -> Epoch:
    transform = train_transform(224, **AUGMENTATIONS[augmentation])
    made = ImageLoader(
        images, Uint8Transform(transform) if loader == "tensor" else transform, batch_size=BATCH, shuffle=True
    )
    return lambda: iter(made)


def of_timm(folder: Path, augmentation: str) -> Epoch:
    options = AUGMENTATIONS[augmentation]
    loader = timm.data.create_loader(
        timm.data.create_dataset("", root=str(folder)),
        input_size=(3, 224, 224),
        batch_size=BATCH,
        is_training=True,
        auto_augment=options["auto_augment"] or None,
        color_jitter=0.0,
        re_prob=options["erase_prob"],
        re_mode="pixel",
        interpolation="bicubic",
        num_workers=0,
        persistent_workers=False,
        device=torch.device("cpu"),
    )
    _allow_posterize_0(loader.loader.dataset.transform)
    return lambda: iter(loader.loader)  # without normalisation and erasing, which are the device's


def of_webdataset(tar: Path, augmentation: str) -> Epoch:
    import webdataset

    options = AUGMENTATIONS[augmentation]
    transform = timm.data.create_transform(
        224,
        is_training=True,
        auto_augment=options["auto_augment"] or None,
        color_jitter=None,
        re_prob=options["erase_prob"],
        re_mode="pixel",
        interpolation="bicubic",
    )
    _allow_posterize_0(transform)
    images = webdataset.WebDataset(str(tar), shardshuffle=False, empty_check=False).shuffle(100).decode("pil")
    batches = images.to_tuple("jpg", "cls").map_tuple(transform, lambda label: label).batched(BATCH)
    return lambda: iter(webdataset.WebLoader(batches, batch_size=None, num_workers=0))


def write_tar(images: FolderSet, path: Path) -> None:
    with tarfile.open(path, "w") as tar, tempfile.TemporaryDirectory() as folder:
        for index in range(len(images)):
            label = Path(folder) / "label"
            label.write_text(str(images.labels[index]))
            tar.add(images.path(index), f"{index:06d}.jpg")
            tar.add(label, f"{index:06d}.cls")


def cpu_seconds(epoch: Epoch) -> float:
    """Per image."""
    start, images = time.process_time(), 0
    for batch in epoch():
        images += len(batch["image"] if isinstance(batch, dict) else batch[0])
    return (time.process_time() - start) / images


def change_of_pixels(images: FolderSet, augmentation: str) -> dict[str, float]:
    """Of the tensor loader against Pillow's, in levels of 0 to 255, by the same random numbers, without erasing."""
    pillow = train_transform(224, **AUGMENTATIONS[augmentation] | {"erase_prob": 0.0})
    tensor, normalize = Uint8Transform(pillow), pillow.transforms[5]
    means, worst = [], 0.0
    for index in range(len(images)):
        seed_sample(seed_words(1, index))
        expected = (pillow(read_image(images.path(index))) * normalize.std + normalize.mean) * 255
        seed_sample(seed_words(1, index))
        difference = (expected.round() - tensor(images.source(index))).abs()
        means.append(difference.mean().item())
        worst = max(worst, difference.max().item())
    return {"mean": round(statistics.mean(means), 4), "worst": worst, "images": len(images)}


def versions() -> dict[str, str]:
    found = {}
    for name in ("torchvision", "pillow", "simplejpeg", "webdataset"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "loader.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    images = FolderSet(args.folder)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        os.environ["RMT_CACHE"] = str(root / "cache")
        for split in ("train", "val"):
            shutil.copytree(args.folder, root / "folder" / split)
        pack(root / "folder", root / "shards", short_side=256, quality=90, workers=1)
        small = open_splits(str(root / "shards")).train
        write_tar(images, root / "images.tar")
        epochs: dict[str, Epoch] = {}
        for augmentation in AUGMENTATIONS:
            for loader in ("pillow", "tensor"):
                epochs[f"{augmentation}: {loader}"] = of_ours(images, augmentation, loader)
                epochs[f"{augmentation}: {loader}, shards of short side 256"] = of_ours(small, augmentation, loader)
            epochs[f"{augmentation}: timm"] = of_timm(args.folder, augmentation)
            if versions()["webdataset"] != "not installed":
                epochs[f"{augmentation}: WebDataset"] = of_webdataset(root / "images.tar", augmentation)
        times: dict[str, list[float]] = {key: [cpu_seconds(epoch)] for key, epoch in epochs.items()}  # warm-up
        for _ in range(args.rounds):
            for key, epoch in epochs.items():
                times[key].append(cpu_seconds(epoch))
        seconds = {key: statistics.median(values[1:]) for key, values in times.items()}
        small_bytes = sum(len(small.source(index)) for index in range(len(small))) / len(small)
    result = {
        "command": "python benchmarks/loader.py --folder PHOTOS",
        "images": len(images),
        "mean_bytes": round(sum(images.path(i).stat().st_size for i in range(len(images))) / len(images)),
        "mean_bytes_short_side_256": round(small_bytes),
        "cpu_ms_per_image": {key: round(1000 * value, 3) for key, value in seconds.items()},
        "rounds_cpu_ms": {key: [round(1000 * value, 3) for value in values[1:]] for key, values in times.items()},
        "images_per_s_and_core": {key: round(1 / value, 1) for key, value in seconds.items()},
        "speed_against_pillow": {
            key: round(seconds[f"{key.partition(':')[0]}: pillow"] / value, 2) for key, value in seconds.items()
        },
        "change_of_pixels": {augmentation: change_of_pixels(images, augmentation) for augmentation in AUGMENTATIONS},
        "machine": {**describe("cpu"), **versions(), "platform": platform.platform()},
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(
        json.dumps(
            {key: result[key] for key in ("speed_against_pillow", "cpu_ms_per_image", "change_of_pixels")}, indent=1
        )
    )


if __name__ == "__main__":
    main()
