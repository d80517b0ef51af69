"""The recipes, sizes and launchers that docs/training.md and docs/scaling.md name are right."""

import json
import re
from dataclasses import dataclass

from helpers.documentation import page, python_blocks

from rmt.data.token_labels.label_maps import LabelMapSpec
from rmt.recipes import IMAGENET, RECIPES, quickstart
from rmt.training.resolve import validate

PAGE, SCALING = page("docs/training.md"), page("docs/scaling.md")
LAUNCHES = re.findall(r"^(?:.*\s)?(rmt train .*)$", SCALING, re.MULTILINE)


def test_launch_lines_of_every_kind_are_there():
    assert len(LAUNCHES) == 6
    for word in ("torchrun --nnodes 4 --nproc-per-node 8", "srun rmt train", "NODE_RANK=0", "--devices 8\n"):
        assert word in SCALING


def test_the_page_s_own_recipe():
    (code,) = python_blocks(PAGE)
    found: dict = {}
    exec(code, found)
    validate(found["mine"])
    assert found["mine"].epochs == 100


def test_every_imagenet_recipe_is_in_the_table():
    for name in IMAGENET:
        assert f"`{name}`" in PAGE or f"`-{name.removeprefix('imagenet-')}`" in PAGE
    assert {"quickstart", "finetune"} <= set(RECIPES)


def test_the_sizes_stated_are_those_on_disk():
    @dataclass(frozen=True, kw_only=True)
    class Sized(LabelMapSpec):
        teacher: str = ""
        weights: str = ""
        image_size: tuple[int, int] = (224, 224)
        mean: tuple[float, ...] = ()
        std: tuple[float, ...] = ()
        interpolation: str = ""
        num_classes: int = 1000
        grid: tuple[int, int] = (7, 7)
        top_k: int = 5
        images: int = 1
        fingerprint: str = ""
        shard_images: int = 1

    text = " ".join(PAGE.split())
    for side, stated in ((7, "0.99"), (14, "3.93"), (18, "6.49")):
        assert f"{Sized(grid=(side, side)).bytes_per_image / 1000:.2f}" == stated
        assert f"{side}×{side}" in text and f"{stated} GB" in text


def test_the_quickstart_s_figures_are_those_of_the_committed_runs():
    found = json.loads(page("benchmarks/quickstart.json"))
    scores = [f"{run['last']['raw']['test']['top1']:.2f}" for run in found["runs"]]
    assert [run["seed"] for run in found["runs"]] == [0, 1, 2]
    described = " ".join((quickstart.__doc__ or "").split())
    for text in (" ".join(page("README.md").split()), described):
        assert ", ".join(scores) in text
    assert f"reaches {found['median_test_top1_last_raw']:.1f} % on 2,000 test images" in page("README.md")
    assert all(run["model"] == quickstart().model for run in found["runs"])


def test_the_loaders_figures_are_those_of_the_committed_run():
    found = json.loads(page("benchmarks/loader.json"))
    times, gains = found["cpu_ms_per_image"], found["speed_against_pillow"]
    for row, augmentation, small in (
        ("the paper's augmentation", "the paper's", ""),
        ("crop and flip alone", "crop and flip", ""),
        ("the paper's, shards of short side 256", "the paper's", ", shards of short side 256"),
        ("crop and flip, shards of short side 256", "crop and flip", ", shards of short side 256"),
    ):
        (line,) = [line for line in SCALING.splitlines() if line.startswith(f"| {row} | ")]
        for loader in ("pillow", "tensor") if small else ("pillow", "tensor", "timm", "WebDataset"):
            key = f"{augmentation}: {loader}{small}"
            assert f"| {times[key]:.2f}" in line
            assert (loader == "pillow" and not small) or f"{times[key]:.2f} ({gains[key]:.2f} ×)" in line
    (line,) = [line for line in SCALING.splitlines() if line.startswith("With torchvision's decoder")]
    other = json.loads(page("benchmarks/loader-torchvision.json"))["speed_against_pillow"]
    for key in ("the paper's: tensor", "crop and flip: tensor"):
        assert f"{other[key]:.2f}" in line and f"{other[f'{key}, shards of short side 256']:.2f}" in line
    text = " ".join(SCALING.split())
    for augmentation, mean in (
        ("crop and flip", "differ from Pillow's by {:.2f}"),
        ("the paper's", "by {:.2f} on average after"),
    ):
        assert mean.format(found["change_of_pixels"][augmentation]["mean"]) in text
