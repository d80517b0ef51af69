"""Every page: its commands are understood, the code it shows exists, its links in the checkout lead to files.

`make test-docs` runs all blocks of all pages (scripts/run_docs.py); here commands are parsed, and the Python blocks of
the pages that need neither data nor large networks are run.
"""

import ast
import json
import re
import shlex

import pytest
from helpers.documentation import ROOT, page, parse_command
from helpers.scripts_under_test import script

run_docs = script("run_docs")
PAGES = ["README.md", *sorted(str(file.relative_to(ROOT)) for file in (ROOT / "docs").rglob("*.md"))]
BLOCKS = {name: run_docs.blocks_of(page(name)) for name in PAGES}
COMMANDS = {block.text for blocks in BLOCKS.values() for block in blocks if block.kind == "command"}


@pytest.mark.parametrize("command", sorted(command for command in COMMANDS if "rmt " in command))
def test_a_command_is_understood(command):
    words = shlex.split(command.replace("…", "20260101-120000"))
    parse_command(shlex.join(words[words.index("rmt") :]))


@pytest.mark.parametrize("name", PAGES)
def test_the_code_it_shows_exists(name):
    for file, definition in re.findall(r"\{literalinclude\} (\S+)\n(?::[a-z-]+:.*\n)*?:pyobject: (\S+)", page(name)):
        body = ast.parse(((ROOT / name).parent / file).read_text(encoding="utf-8")).body
        for part in definition.split("."):
            (found,) = [node for node in body if getattr(node, "name", None) == part]
            body = getattr(found, "body", [])


def anchors(markdown: str) -> set[str]:
    """The anchors of the headings, as GitHub and MyST derive them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", markdown, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", [*PAGES, "CONTRIBUTING.md", "RELEASING.md", "SECURITY.md"])
def test_links_in_the_checkout_lead_to_files_and_headings(name):
    for target in re.findall(r"\]\(([^)\s]*)\)", page(name)):
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert re.match(r"https?://", target) or file.exists(), target
        if anchor and file.suffix == ".md" and file.exists():
            assert anchor in anchors(file.read_text(encoding="utf-8")), target


@pytest.mark.parametrize("name", ["docs/method.md", "docs/faq.md", "docs/reference/files.md"])
def test_its_python_runs(name, tmp_path):
    results = list(run_docs.run_page(ROOT / name, run_docs.Workspace(tmp_path), only="python"))
    assert results and [error for _, _, error in results if error] == []


@pytest.mark.parametrize("name", PAGES)
def test_python_is_in_fences(name):
    """Of indented blocks, `run_docs` runs only lines that begin with a program."""
    outside = re.sub(r"^(`{3,}).*?^\1", "", page(name), flags=re.DOTALL | re.MULTILINE)
    assert re.findall(r"^    .*\brmt\.\w+\(.*|^    (?:import|from) .*", outside, re.MULTILINE) == []


def test_the_last_run_of_all_blocks():
    recorded = json.loads(page("benchmarks/documentation.json"))
    assert recorded["totals"]["failed"] == 0
    assert recorded["totals"]["ran"] > 100


@pytest.mark.parametrize("name", [name for name in PAGES if BLOCKS[name]])
def test_the_recorded_run_is_of_the_blocks_of_today(name):
    recorded = json.loads(page("benchmarks/documentation.json"))["pages"][name]["digest"]
    remedy = f"make test-docs ARGS='{name} --record benchmarks/documentation.json'"
    assert recorded == run_docs.digest(page(name)), f"blocks have changed since they were run: {remedy}"


def test_blocks_are_found_in_order():
    text = (
        "# T\n\n    rmt check A   # a\n    no command\n\n- item\n    rmt no\n\n```sh\nX=1 rmt predict \\\n  B\n```\n\n"
    )
    text += "<!-- needs: nothing_here -->\n```python\nx = 1\n```\n"
    text += "<!-- needs: nor_this -->\n\n    rmt embed B\n\n    rmt embed C\n"
    found = [(block.kind, block.text, block.needs) for block in run_docs.blocks_of(text)]
    assert found == [
        ("command", "rmt check A", ""),
        ("command", "X=1 rmt predict B", ""),
        ("python", "x = 1", "nothing_here"),
        ("command", "rmt embed B", "nor_this"),
        ("command", "rmt embed C", ""),
    ]


def test_a_training_is_made_small():
    argv = run_docs.made_small(
        shlex.split("train imagenet-small --data imagenet --devices 8 --epochs 300 --drop-path 0.1")
    )
    assert argv[:4] == ["train", "imagenet-small", "--data", "imagenet"]
    assert (
        "8" not in argv[:-20]
        and argv[argv.index("--epochs") + 1] == "1"
        and argv[argv.index("--drop-path") + 1] == "0.1"
    )
