"""What the site reads off the code and the committed results when it is built; needs Sphinx, of the extra docs."""

import json
import re
import sys

import pytest
from helpers.documentation import ROOT, page

pytest.importorskip("sphinx")
sys.path.append(str(ROOT / "docs" / "_ext"))
import figures
import generated_reference
from docstrings import escape

from rmt.commands.cli import COMMANDS
from rmt.recipes import RECIPES


def lines(kind: type, *arguments: str) -> str:
    return "\n".join(kind.lines(kind.__new__(kind), *arguments))


def test_the_front_page_s_figures_are_those_of_the_committed_runs():
    assert figures.substitutions()["quickstart_top1"] == "91.0 %"
    slowest, fastest = figures.substitutions()["small_cpu"].split(" to ")
    assert f"{fastest} deployed, 1.14 compiled too, 1.00 eager" in page("docs/speed.md")
    assert float(slowest) < float(fastest) and figures.substitutions()["small_cpu_bf16"] == "1.00"
    assert f"| `benchmarks/export.json` | {figures.substitutions()['small_openvino']} |" in page("docs/export.md")
    table = lines(figures.Peers, "gpu/forward")
    rows = json.loads(page("benchmarks/gpu/forward.json"))["results"]
    fastest = max(row["images_per_second"] for row in rows if row["model"] == "convnext_tiny")
    assert f"| convnext_tiny | 82.1 | {fastest:,.0f} |" in table
    assert table.index("**rmt_small**") < table.index("swin_tiny")  # the fastest first


def test_every_field_and_recipe_is_listed_with_its_text():
    text = lines(generated_reference.RecipeFields, "DetectRecipe")
    assert "`--short-side` (int or `auto`;" in text
    listed = "\n".join(lines(generated_reference.Recipes, task) for task in ("classify", "detect", "segment"))
    assert all(f"`{name}`\n: " in listed for name in RECIPES)
    assert "Command: `rmt train imagenet-small --data IMAGENET`" in listed and "multiply- adds" not in listed


def test_a_command_s_arguments_are_named_as_on_the_command_line():
    text = lines(generated_reference.Command, "token-labels")
    assert "`--import` (path; not given by default)" in text and "`--data` (text; required)" in text
    assert "`IN.pth` (path; required)" in lines(generated_reference.Command, "convert")
    assert "`--command`" not in lines(generated_reference.Command, "bench")  # `run` is given it; nobody can type it


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "train"])
def test_every_option_of_a_command_has_a_text(command):
    entries = re.findall(r"^`(\S+)` \(.*\n: (.*)", lines(generated_reference.Command, command), re.M)
    assert entries and all(len(text) > 3 for _, text in entries)


def test_a_network_s_facts():
    text = lines(generated_reference.Network, "rmt_tiny")
    assert (
        "| parameters | 14,334,216 |" in text
        and "along rows and columns, along rows and columns, over all pairs" in text
    )
    (measured,) = [
        row["images_per_second"]
        for row in json.loads(page("benchmarks/gpu/forward.json"))["results"]
        if (row["model"], row["mode"]) == ("rmt_tiny", "deploy+graph")
    ]
    assert f"| speed | {measured:,.0f} images/s deployed on one NVIDIA H100" in text and "`imagenet-tiny`" in text
    assert "`rmt_micro.cifar10` in the package" in lines(generated_reference.Network, "rmt_micro")


def test_marks_of_restructuredtext_are_escaped_outside_of_code():
    assert escape("|Δ|·ln γ, `*.pth` and `Detection`s") == "\\|Δ\\|·ln γ, `*.pth` and `Detection`\\ s"


def test_every_path_and_field_of_the_server_is_listed():
    import http_reference

    paths = lines(http_reference.Paths, "rmt_micro")
    assert re.findall(r"### `(\w+ /\w+)`", paths) == [
        *("POST /predict", "POST /explain", "POST /embed", "GET /model", "GET /health", "GET /metrics")
    ]
    assert "`?top_k=` (integer, 1 to " in paths and "- 503: " in paths and "\n: –" not in paths
    assert "`?x=` (number, 0 to 1; default `0.5`)\n: point of the image, as a fraction of its width" in paths
    health = paths.partition("### `GET /health`")[2].partition("###")[0]
    assert "- 403: " in health and "401" not in health
    fields = lines(http_reference.Schema, "Detection")
    assert "| `objects` | list of `Object` | highest score first |" in fields
    assert (
        "| `mask` | `Runs` or null |" in fields
        and "|  |" not in fields
        and "| `size` | list of integer | height, width |" in fields
    )


def test_every_status_of_an_error_is_listed_with_its_code():
    import http_reference

    from rmt.serve.errors import CODES, MEANINGS

    table = lines(http_reference.Errors)
    assert "| 422 | `not_usable` | An option or an image cannot be used. |" in table
    assert set(MEANINGS) == set(CODES) and all(f"| {status} | `{code}` | " in table for status, code in CODES.items())
