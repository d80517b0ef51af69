"""Directives whose content is read off the code: `recipe-fields`, `recipes`, `command`, `network`."""

import dataclasses
import importlib
import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from rmt.recipes import RECIPES
from rmt.recipes.published import PUBLISHED
from rmt.recipes.recipe import Recipe, option

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


class FromCode(SphinxDirective):
    """A directive whose content is Markdown that `lines` yields."""

    required_arguments = 1

    def run(self) -> list:
        return self.parse_text_to_nodes("\n".join(self.lines(*self.arguments)))

    def lines(self, *arguments: str) -> Iterator[str]:
        raise NotImplementedError


def type_text(hint: Any) -> str:
    """A type as a person types its values: "int or auto", "stop or skip", "numbers"."""
    if get_origin(hint) is Annotated:
        return type_text(get_args(hint)[0])
    if get_origin(hint) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) is tuple:
        kinds = [kind for kind in get_args(hint) if kind is not Ellipsis]
        return f"one or more {type_text(kinds[0])}" if Ellipsis in get_args(hint) else " ".join(map(type_text, kinds))
    arguments = [kind for kind in get_args(hint) if kind is not type(None)]
    if arguments:
        return " or ".join(map(type_text, arguments))
    return {"str": "text", "Path": "path", "bool": "flag"}.get(hint.__name__, hint.__name__)


def default_text(value: Any) -> str:
    if value is dataclasses.MISSING or value is inspect.Parameter.empty:
        return "required"
    if value in ("", None, ()):
        return "not given by default"
    if isinstance(value, bool):
        return "on by default" if value else "off by default"
    return f"default `{' '.join(map(str, value)) if isinstance(value, tuple) else value}`"


def entry(title: str, hint: Any, default: Any, text: str) -> Iterator[str]:
    yield f"`{title}` ({type_text(hint)}; {default_text(default)})"
    yield f": {text or '–'}"
    yield ""


def field_docs(kind: type[Recipe]) -> dict[str, str]:
    """The text under each field in the source, by the field's name, for a class and those it derives from."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        docs = ModuleAnalyzer.for_module(base.__module__).find_attr_docs()
        found |= {
            name: " ".join(" ".join(text).split()) for (owner, name), text in docs.items() if owner == base.__name__
        }
    return found


class RecipeFields(FromCode):
    """The fields that a recipe class adds to those it derives from: `Recipe`, `ClassifyRecipe` and so on."""

    def lines(self, name: str) -> Iterator[str]:
        kind: type[Recipe] = getattr(importlib.import_module("rmt.recipes"), name)
        hints, docs = get_type_hints(kind, include_extras=True), field_docs(kind)
        inherited = {
            field.name
            for base in kind.__mro__[1:]
            if dataclasses.is_dataclass(base)
            for field in dataclasses.fields(base)
        }
        for field in dataclasses.fields(kind):
            if field.name not in inherited:
                yield from entry(f"--{option(field.name)}", hints[field.name], field.default, docs.get(field.name, ""))


class Recipes(FromCode):
    """The named recipes of a task, each with its description."""

    def lines(self, task: str) -> Iterator[str]:
        for name, make in RECIPES.items():
            if make().task == task:
                yield f"`{name}`"
                description = (inspect.getdoc(make) or "").split("\n\n")
                for i, paragraph in enumerate(description):
                    yield f"{'  ' if i else ': '}{as_markdown(paragraph)}"
                    yield ""


def as_markdown(paragraph: str) -> str:
    """A paragraph of a docstring; an indented one is code, and so is the command at its end."""
    if paragraph.startswith("    "):
        return "\n".join("      " + line for line in inspect.cleandoc(paragraph).splitlines()).lstrip()
    paragraph = re.sub(r"(?<=\w)-\n\s*(?=\w)", "-", paragraph)  # a word that a line's end divides
    return re.sub(r"Command: (rmt .+)$", r"Command: `\1`", " ".join(paragraph.split()))


def argument_docs(run: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The text of a command's docstring before "Args:", and the text of each argument."""
    about, _, arguments = (inspect.getdoc(run) or "").partition("\n\nArgs:\n")
    _, *found = re.split(r"^    (\w+): ", arguments, flags=re.MULTILINE)
    return about, {name: " ".join(text.split()) for name, text in zip(found[::2], found[1::2], strict=True)}


class Command(FromCode):
    """A command of `rmt`: its description, and its arguments and options."""

    def lines(self, name: str) -> Iterator[str]:
        run = importlib.import_module(f"rmt.commands.{name.replace('-', '_')}").run
        about, texts = argument_docs(run)
        yield about
        yield ""
        hints = get_type_hints(run, include_extras=True)
        for parameter in inspect.signature(run).parameters.values():
            hint = hints[parameter.name]
            if tyro.conf.Suppress in get_args(hint):
                continue  # not in the help either
            if dataclasses.is_dataclass(core := get_args(hint)[0] if get_origin(hint) is Annotated else hint):
                docs = field_comments(core)
                for field in dataclasses.fields(core):
                    kind = get_type_hints(core)[field.name]
                    yield from entry(f"--{option(field.name)}", kind, field.default, docs[field.name])
                continue
            yield from entry(title(parameter, hint), hint, parameter.default, texts.get(parameter.name, ""))


def title(parameter: inspect.Parameter, hint: Any) -> str:
    """The name of an argument on the command line, or its placeholder if it has no option."""
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    given = {name: value for mark in marks for name in ("name", "metavar") if (value := getattr(mark, name, None))}
    positional = parameter.kind is parameter.POSITIONAL_ONLY or any("Positional" in str(mark) for mark in marks)
    if positional:
        return given.get("metavar", parameter.name.upper())
    return f"--{option(given.get('name', parameter.name))}"


def field_comments(kind: type) -> dict[str, str]:
    """The comment behind each field of a dataclass, or above it."""
    found, above = {}, []
    for line in inspect.getsource(kind).splitlines():
        if comment := re.match(r" +# (.*)", line):
            above.append(comment[1])
            continue
        if field := re.match(r"    (\w+): (?:.*?  # (.*))?", line):
            text = field[2] or " ".join(above)
            found[field[1]] = text[:1].upper() + text[1:] + "."
        above = []
    return found


PUBLISHED_WEIGHTS = {f"rmt_{size}" for size in ("tiny", "small", "base", "large", "small_tl", "base_tl", "large_tl")}


def speed(name: str) -> str:
    """Images per second on a GPU, if the network was measured."""
    content = json.loads((BENCHMARKS / "gpu" / "forward.json").read_text(encoding="utf-8"))
    for row in content["results"]:
        if row["model"] == name and row["mode"] == "deploy+graph":
            options = content["options"]
            setting = f"{options['dtypes'][0]}, batches of {options['batches'][0]} at 224², CUDA graph"
            return f"{row['images_per_second']:,.0f} images/s deployed on one {content['machine']['gpu']} ({setting})"
    return "not measured on a GPU"


class Network(FromCode):
    """The card of a named network: stages, parameters, cost, decay, accuracy, weights, recipes."""

    def lines(self, name: str) -> Iterator[str]:
        from rmt.model import create_model
        from rmt.model.cost import describe
        from rmt.model.shipped import SHIPPED
        from rmt.model.variants import MAX_DROP_PATH

        network = create_model(name, device="meta")
        side = network.pretrained_cfg["input_size"][-1]
        facts = describe(network, side, side)
        stages = facts["stages"]
        ways = ["along rows and columns" if stage["decomposed"] else "over all pairs" for stage in stages]
        named = [recipe for recipe, make in RECIPES.items() if make().model == name and "ablation-" not in recipe]
        rows_of_paper = [PUBLISHED[recipe] for recipe in named if recipe.startswith("imagenet-")]
        top1 = "none published"
        for row in rows_of_paper:
            top1 = f"{row.scores['top1']:.1f} %, published by the authors, for the best epoch ({row.table})"
        weights = "none"
        if name in SHIPPED:
            weights = f"`{name}.{SHIPPED[name]}` in the package, by its authors; Apache-2.0 ([card](rmt_micro.md))"
        elif name in PUBLISHED_WEIGHTS:
            link = "[how to read them](howto/weights.md)"
            weights = f"by the paper's authors, on ImageNet-1k; no licence, not in the package ({link})"
        rows = {
            "parameters": f"{facts['parameters']:,}",
            "multiply-adds": f"{facts['macs'] / 1e9:.3g} G for one image of {side}×{side}",
            "blocks, channels, heads": ", ".join(f"{s['blocks']} × {s['channels']} ({s['heads']})" for s in stages),
            "attention": ", ".join(ways),
            "decay γ, first to last head": ", ".join(f"{s['decay'][0]:.3f} to {s['decay'][-1]:.4f}" for s in stages),
            "stochastic depth in the paper": f"{MAX_DROP_PATH[name]}" if name in MAX_DROP_PATH else "–",
            "speed": speed(name),
            "top-1 on ImageNet-1k": top1,
            "trained weights": weights,
            "recipes": ", ".join(f"`{recipe}`" for recipe in named) or "–",
        }
        yield "| fact | value |"
        yield "|---|---|"
        for label, text in rows.items():
            yield f"| {label} | {text} |"


def setup(app: Sphinx) -> dict:
    for name, kind in {
        "recipe-fields": RecipeFields,
        "recipes": Recipes,
        "command": Command,
        "network": Network,
    }.items():
        app.add_directive(name, kind)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
