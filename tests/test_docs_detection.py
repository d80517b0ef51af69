"""The code in docs/detection.md runs, in the order of the page, and its figures are those of the committed results."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "detection.md").read_text(encoding="utf-8")


def test_the_page_s_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found: dict = {}
    for code in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE):
        exec(code, found)
    assert found["kept"] == [f"norms.{i}" for i in range(4)]


def test_the_memory_s_figures():
    for name in ("detector-memory-plain", "detector-memory"):
        peaks = json.loads((ROOT / "benchmarks" / f"{name}.json").read_text())["peak_mib"]
        row = f"| {peaks['whole']:,.0f} MiB | {peaks['backbone']:,.0f} MiB |"
        assert row in PAGE and f"benchmarks/{name}.json" in PAGE
