"""Every command in docs/training.md is one that the program takes, and every recipe in it is there."""

import inspect
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import tyro

from rmt.commands import evaluate, predict, shard, token_labels
from rmt.commands.recipe_choice import choose_recipe
from rmt.data.token_labels.label_maps import LabelMapSpec
from rmt.recipes import IMAGENET, RECIPES, Recipe
from rmt.training.resolve import validate

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "training.md").read_text(encoding="utf-8")
SCALING = (DOCS / "scaling.md").read_text(encoding="utf-8")
LAUNCHES = re.findall(r"^(?:.*\s)?(rmt train .*)$", SCALING, re.MULTILINE)
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
COMMANDS = [line.partition(" #")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]


def parse(words: list[str]) -> object:
    """What the program makes of a command line, without doing it."""
    command, *args = words
    if command == "train" and args[0] == "--resume":
        return args[1]
    if command == "train":
        recipe, _ = choose_recipe(args[0])
        return tyro.cli(type(recipe), default=recipe, args=[arg for arg in args[1:] if arg != "--help"])
    if command == "recipes":
        return None
    runs = {"token-labels": token_labels.run, "shard": shard.run, "evaluate": evaluate.run, "predict": predict.run}
    run = runs[command]
    seen = {}

    def record(**values: object) -> None:
        seen.update(values)

    record.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    record.__annotations__, record.__doc__ = run.__annotations__, run.__doc__
    tyro.cli(record, args=args)
    return seen


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    program, *words = shlex.split(command)
    assert program == "rmt"
    parsed = parse(words)
    if isinstance(parsed, Recipe):
        validate(parsed)


@pytest.mark.parametrize("command", sorted(set(LAUNCHES)))
def test_a_launch_line_is_understood(command):
    parsed = parse(shlex.split(command)[1:])
    if isinstance(parsed, Recipe):
        validate(parsed)


def test_launch_lines_of_every_kind_are_there():
    assert len(LAUNCHES) == 6
    for word in ("torchrun --nnodes 4 --nproc-per-node 8", "srun rmt train", "NODE_RANK=0", "--devices 8\n"):
        assert word in SCALING


def test_the_page_s_own_recipe():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
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
