"""Draw docs/images/architecture.svg: the packages of `rmt`, the imports between them, and three routes through them.

Boxes and arrows come from the import statements of the package (read by grimp, which import-linter uses), the lines in
the boxes from the packages' docstrings. A package stands above everything that it imports. An arrow points from a
package to one that it imports; arrows that follow from two others are left out.

    python scripts/draw_architecture.py
"""

import ast
import importlib
import re
import textwrap
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "images" / "architecture.svg"

#: What passes through the package: for each route, (module or object, what happens there).
ROUTES: dict[str, list[tuple[str, str]]] = {
    "an image": [
        ("data.splits:open_splits", "what --data names: training and validation images"),
        ("data.image_loader:ImageLoader", "workers read, augment and batch; draws follow from the seed"),
        ("model.rmt:ConvStem", "pixels to tokens, stride 4"),
        ("model.rmt:Stage", "blocks of MaSA (ops.masa) and feed-forward, four stages"),
        ("model.rmt:Head", "tokens to logits; with heads/ to boxes, masks, maps of classes"),
        ("training.evaluator:Evaluator", "one loop per task counts scores, in training and after it"),
    ],
    "a recipe": [
        ("recipes:RECIPES", "a named recipe, a frozen dataclass"),
        ("commands.train:main", "each field is an option of rmt train"),
        ("training.resolve:resolve", "open fields are filled in, once, by machine, weights and data"),
        ("training.run_folder:RunFolder", "recipe.json holds the recipe that runs"),
        ("tasks.classify.build:build", "network and optimiser as it says"),
        ("training.module:TrainingModule", "holds the only copy while training"),
    ],
    "a checkpoint": [
        ("training.checkpoints.callback:StateCheckpoint", "last.ckpt: the whole state of the run"),
        ("training.run:resume", "continues from it, bit for bit"),
        ("training.checkpoints.weights:WeightFiles", "last, last-ema and best.safetensors"),
        ("model.checkpoints:save_checkpoint", "weights with the JSON that rebuilds the network"),
        ("model.rebuild:load_model_file", "reads it without running code"),
        ("inference:load", "a predictor for images"),
        ("export.run:export", "its deployed form as a file for other runtimes"),
    ],
}

INK, MUTED, LINE, PAPER = "#1f2933", "#6b7785", "#9aa5b1", "#ffffff"
COLOURS = ("#2563eb", "#d97706", "#15803d")
WIDTH, BOX_WIDTH, BOX_HEIGHT, COLUMN, ROW = 1350, 250, 74, 300, 122

#: Where a package stands from left to right, in columns; its row follows from the imports.
COLUMNS = {
    "recipes": 0.0,
    "training": 0.45,
    "data": 1.0,
    "tasks": 0.45,
    "export": 1.45,
    "inference": 1.45,
    "serve": 3.4,
    "check": 2.4,
    "commands": 2.7,
    "ops": 2.4,
    "model": 2.4,
    "heads": 2.4,
    "integrations": 2.4,
    "benchmark": 3.4,
}


def packages() -> dict[str, str]:
    """The sub-packages of `rmt` and the first sentence of each docstring."""
    found = {}
    for file in sorted((ROOT / "src" / "rmt").glob("*/__init__.py")):
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
        found[file.parent.name] = re.split(r"(?<=\w)[.;](?= |$)", " ".join(text.split()))[0].replace("`", "")
    return found


def imports(names: list[str]) -> set[tuple[str, str]]:
    """The pairs (importer, imported) of sub-packages, by any import statement, those inside functions included."""
    graph = grimp.build_graph("rmt")
    pairs = set()
    for module in graph.modules:
        for other in graph.find_modules_directly_imported_by(module):
            one, two = (name.split(".")[1] if "." in name else "" for name in (module, other))
            if one in names and two in names and one != two:
                pairs.add((one, two))
    return pairs


def levels(names: list[str], pairs: set[tuple[str, str]]) -> dict[str, int]:
    """For each package, the length of the longest chain of imports below it. Raises ValueError on a circle."""
    found: dict[str, int] = {}

    def level(name: str, path: tuple[str, ...] = ()) -> int:
        if name in path:
            raise ValueError(f"the packages import each other in a circle: {' -> '.join((*path, name))}")
        if name not in found:
            below = [level(other, (*path, name)) for one, other in pairs if one == name]
            found[name] = 1 + max(below, default=-1)
        return found[name]

    for name in names:
        level(name)
    return found


def without_implied(pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The pairs that do not follow from a chain of other pairs."""

    def reaches(start: str, goal: str, skip: tuple[str, str]) -> bool:
        following = [two for one, two in pairs if one == start and (one, two) != skip]
        return goal in following or any(reaches(name, goal, skip) for name in following)

    return {pair for pair in pairs if not reaches(*pair, skip=pair)}


def place(level: dict[str, int]) -> dict[str, tuple[float, float]]:
    """The centre of each package's box: its row by level, its column from COLUMNS."""
    if absent := sorted(set(level) - set(COLUMNS)):
        raise ValueError(f"no column for {', '.join(absent)}: add it to COLUMNS in {Path(__file__).name}")
    top = max(level.values())
    return {
        name: (40 + BOX_WIDTH / 2 + COLUMN * COLUMNS[name], 30 + BOX_HEIGHT / 2 + ROW * (top - row))
        for name, row in level.items()
    }


def text(x: float, y: float, content: str, size: int = 13, colour: str = INK, **more: str) -> str:
    rest = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in more.items())
    return f'<text x="{x:.0f}" y="{y:.0f}" font-size="{size}" fill="{colour}"{rest}>{escape(content)}</text>'


def box(x: float, y: float, name: str, line: str) -> list[str]:
    left, top = x - BOX_WIDTH / 2, y - BOX_HEIGHT / 2
    parts = [
        f'<rect x="{left:.0f}" y="{top:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="8" fill="{PAPER}" '
        f'stroke="{INK}" stroke-width="1.2"/>',
        text(left + 12, top + 22, f"{name}/", 15, font_weight="bold"),
    ]
    lines = textwrap.wrap(line, 34, max_lines=2, placeholder=" …")
    parts += [text(left + 12, top + 42 + 17 * i, words, 12, MUTED) for i, words in enumerate(lines)]
    return parts


def arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    y1, y2 = y1 + BOX_HEIGHT / 2, y2 - BOX_HEIGHT / 2 - 5
    x1 += max(-90.0, min(90.0, (x2 - x1) * 0.25))
    x2 += max(-90.0, min(90.0, (x1 - x2) * 0.25))
    bend = (y2 - y1) * 0.5
    path = f"M{x1:.0f},{y1:.0f} C{x1:.0f},{y1 + bend:.0f} {x2:.0f},{y2 - bend:.0f} {x2:.0f},{y2:.0f}"
    return f'<path d="{path}" fill="none" stroke="{LINE}" stroke-width="1.4" marker-end="url(#head)"/>'


def resolved(name: str) -> object:
    """The module or object that a route names, so that a name that is no longer there is an error."""
    module, _, attribute = name.partition(":")
    found = importlib.import_module(f"rmt.{module}")
    for part in filter(None, attribute.split(".")):
        found = getattr(found, part)
    return found


def routes(top: float) -> tuple[list[str], float]:
    """The routes as rows of small boxes, and the y below them."""
    parts, y = [], top
    for colour, (what, steps) in zip(COLOURS, ROUTES.items(), strict=False):
        parts.append(text(20, y + 4, f"The way of {what}", 15, colour, font_weight="bold"))
        width = (WIDTH - 20) / len(steps)
        for number, (name, does) in enumerate(steps):
            resolved(name)
            left = 20 + number * width
            parts.append(
                f'<rect x="{left:.0f}" y="{y + 16:.0f}" width="{width - 24:.0f}" height="94" rx="6" fill="{PAPER}" '
                f'stroke="{colour}" stroke-width="1.2"/>'
            )
            module, _, attribute = name.partition(":")
            parts.append(text(left + 8, y + 33, module, 11, MUTED))
            parts.append(text(left + 8, y + 49, attribute, 12, INK, font_weight="bold"))
            for i, words in enumerate(textwrap.wrap(does, int((width - 40) / 6.2))[:3]):
                parts.append(text(left + 8, y + 66 + 14 * i, words, 11, MUTED))
            if number:
                parts.append(
                    f'<path d="M{left - 22:.0f},{y + 63:.0f} H{left - 5:.0f}" stroke="{colour}" stroke-width="1.6" '
                    'marker-end="url(#head)"/>'
                )
        y += 144
    return parts, y


def draw() -> str:
    """The picture as SVG text: the same text for the same imports."""
    described = packages()
    names = list(described)
    pairs = imports(names)
    level = levels(names, pairs)
    centres = place(level)
    bottom = 60 + BOX_HEIGHT + ROW * max(level.values())
    parts = [arrow(centres[one], centres[two]) for one, two in sorted(without_implied(pairs))]
    for name, (x, y) in sorted(centres.items()):
        parts += box(x, y, name, described[name])
    rows, height = routes(bottom + 24)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" viewBox="0 0 {WIDTH} '
        f'{height:.0f}" font-family="Helvetica, Arial, sans-serif">'
    )
    marker = (
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="{MUTED}"/></marker></defs>'
    )
    back = f'<rect width="{WIDTH}" height="{height:.0f}" fill="#f7f8fa"/>'
    return "\n".join([head, marker, back, *parts, *rows, "</svg>"]) + "\n"


if __name__ == "__main__":
    TARGET.write_text(draw(), encoding="utf-8")
    print(TARGET.relative_to(ROOT))
