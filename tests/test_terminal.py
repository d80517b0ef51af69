"""Text from files cannot control a terminal, wherever it is printed or drawn."""

import ast
import io
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers.image_sets import picture
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from rich.console import Console

import rmt
from rmt.commands.cli import main
from rmt.data.sources.folders import FolderSet
from rmt.inference.drawing.boxes import LabelledBox, draw_boxes
from rmt.inference.drawing.fonts import plain_text
from rmt.tasks.report_page import class_bars
from rmt.terminal import lines, log_to, plural, printable, say
from rmt.training.logging import plots
from rmt.training.results import text_table

HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "carriage\rreturn",
    "two\nlines",
    "\x9b2J",
    "bad\udcff",
    "nul\0",
    "a\u202egnp.exe",
    "\u2028line",
)
"""Names that would colour, retitle, overwrite, clear or turn round what is printed."""
NAMES = (*HOSTILE[:6], "$x^2$ costs $", "a_b\\c", "%s {} [bold]", "שלום עולם", "مرحبا", "猫", "x" * 200, "é")


@given(st.text(st.characters(codec=None), max_size=40))
def test_nothing_but_printable_characters_remains(text):
    shown = printable(text)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or 0xD800 <= ord(c) < 0xE000 for c in shown)
    assert not set(shown) & set("\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f")
    shown.encode("utf-8")
    assert printable(shown) == shown


@pytest.mark.parametrize("text", ["plain", "Größe $5_a\\b [x]", "שלום", "مرحبا", "猫 犬", "naïve – …", "🐜"])
def test_letters_of_every_script_are_kept(text):
    assert printable(text) == text


def test_escapes_say_what_was_there():
    assert printable("\x1b[31m\n\udcff\u202e") == "\\x1b[31m\\n\\xff\\u202e"
    assert printable("caf\udce9 \ud800") == "caf\\xe9 \\ud800"
    assert lines("one\ntwo\x1b") == "one\ntwo\\x1b"


@pytest.mark.parametrize("name", HOSTILE)
def test_what_prints_uses_it(name, capsys):
    say(f"class {name}")
    stream = io.StringIO()
    log_to(Console(file=stream, soft_wrap=True, force_terminal=True, color_system=None), f"class {name}")
    table = "\n".join(text_table([("class", "images"), (name, "1")]))
    for shown in (capsys.readouterr().out, stream.getvalue(), table):
        assert not set(shown) & {"\x1b", "\x9b", "\r", "\x07", "\0", "\u202e", "\udcff"}


#: modules that print what is not from files, or print through the terminal's own function
OWN_TEXT = {"commands/train.py", "commands/recipes.py", "commands/bench.py", "commands/cli.py", "terminal.py"}


def test_all_places_use_it():
    """Every other `print` is of JSON, which is ASCII; consoles print by `log_to`."""
    root = Path(rmt.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        place = path.relative_to(root).as_posix()
        if place in OWN_TEXT or place.startswith("benchmark/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            json = bool(node.args) and ast.unparse(node.args[0]).startswith("json_module.dumps")
            if (called == "print" and not json) or called.endswith(("console.print", "Console.print")):
                found.append(f"{place}:{node.lineno}")
    assert found == [], "print by say, complain or log_to of rmt.terminal"


def test_names_are_drawn_as_they_are():
    figure = Figure(figsize=(6, 8))
    top, middle, bottom = figure.subplots(3, 1)
    with plain_text():
        size = len(NAMES)
        plots.plot_confusion(top, np.eye(size, dtype=np.int64), NAMES)
        class_bars(middle, "IoU", "", [(name, 50.0, 40.0) for name in NAMES])
        plots.draw_prediction(bottom, np.zeros((8, 8, 3), np.uint8), NAMES[6], NAMES[0], 0.5)
        figure.savefig(io.BytesIO(), format="png", dpi=30)
    labels = [label.get_text() for label in middle.get_yticklabels()]
    assert labels[6:8] == ["$x^2$ costs $", "a_b\\c"] and labels[0] == "\\x1b[31mred\\x1b[0m"
    assert max(map(len, labels)) <= 24


def test_names_are_drawn_on_pictures():
    boxes = [LabelledBox((2.0, 2.0, 20.0, 20.0), 0, name) for name in NAMES]
    assert draw_boxes(picture(1, (64, 64)), boxes).size[0] > 0


def test_a_folder_of_hostile_names(tmp_path, capsysbinary):
    """Class names that the file system allows, through the command line."""
    for name in ("\x1b[31mred", "bad\udcff", "$a_b\\c$", "שלום", "x" * 200):
        for split, count in (("train", 3), ("val", 1)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                picture(hash((name, split, number)) % 1000).save(folder / f"{number}.png")
    assert main(["check", str(tmp_path / "photos"), "--output", str(tmp_path / "sheet.png")]) == 0
    out = capsysbinary.readouterr().out
    assert b"\x1b" not in out and b"\\x1b[31mred 3" in out and b"bad\\xff 3" in out
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert main(["check", str(tmp_path / "photos" / "train" / "\x1b[31mred")]) == 1
    assert b"\x1b" not in capsysbinary.readouterr().err


def test_a_model_file_of_hostile_names_is_read_back(tmp_path):
    """Undecodable bytes have become text before the names are saved, so that data and file still agree."""
    for name in ("bad\udcff", "\x1b[31mred", "é"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        picture(1).save(tmp_path / "photos" / name / "1.png")
    classes = FolderSet(tmp_path / "photos").classes
    assert classes == ("\x1b[31mred", "bad\\xff", "é")
    network = rmt.create_model("rmt_test", num_classes=3)
    recipe = {"data": str(tmp_path / "bad\udcff")}
    rmt.save_checkpoint(network, tmp_path / "a.safetensors", classes=classes, recipe=recipe)
    assert rmt.load(tmp_path / "a.safetensors", device="cpu").classes == classes


def test_the_plural_follows_the_number():
    counted = [plural(0, "image"), plural(1, "image"), plural(2000, "class"), plural(2, "batch"), plural(2, "epoch")]
    assert counted == ["0 images", "1 image", "2,000 classes", "2 batches", "2 epochs"]
    assert [plural(1.0, "minute"), plural(2.5, "minute")] == ["1 minute", "2.5 minutes"]


NEVER_ONE = {"len(packed.bad)", "len(collection)", "len(names)", "len(found)", "len(bad)"}
"""Lengths that are printed only where they cannot be 1."""
COUNTED = re.compile(r" (?:[a-z]+ )?(?:images|epochs|classes|files|masks|objects|boxes|rows|shards|batches|steps)\b")


def test_no_message_puts_a_plural_after_a_length():
    """`1 images`: the noun after a length comes from `plural`."""
    found = []
    for file in sorted(Path(rmt.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else []
            for value, text in pairwise(parts):
                if isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant):
                    number = ast.unparse(value.value)
                    if number.startswith("len(") and COUNTED.match(text.value) and number not in NEVER_ONE:
                        found.append(f"{file.name}:{value.lineno}: {number}")
    assert not found
