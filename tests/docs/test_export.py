"""The figures in docs/export.md are those of the committed results."""

import json

from helpers.documentation import page

PAGE = page("docs/export.md")


def test_the_ratios_are_the_committed_ones():
    found = json.loads(page("benchmarks/export.json"))["rmt_small_over_swin_tiny"]
    ratios = " | ".join(f"{found[f'openvino {precision}']:.2f}" for precision in ("fp32", "bf16", "int8"))
    assert f"| `benchmarks/export.json` | {ratios} |" in PAGE
