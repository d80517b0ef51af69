"""The commands in docs/export.md are valid, and its figures are those of the committed results."""

import json
import re

import pytest
from helpers.documentation import page, parse_command

PAGE = page("docs/export.md")
COMMANDS = re.findall(r"^    (rmt .*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_understood(command):
    parse_command(command)


def test_the_ratios_are_the_committed_ones():
    found = json.loads(page("benchmarks/export.json"))["rmt_small_over_swin_tiny"]
    ratios = " | ".join(f"{found[f'openvino {precision}']:.2f}" for precision in ("fp32", "bf16", "int8"))
    assert f"| `benchmarks/export.json` | {ratios} |" in PAGE
