"""`ops/masa.py` and `model/rmt.py`, pasted into one notebook cell, are the whole network."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from helpers.networks import PARITY, TINY, official_weights
from helpers.parity_fill import image

import rmt
from rmt.model import RMT, load_official

SOURCES = [Path(rmt.__file__).parent / "ops" / "masa.py", Path(rmt.__file__).parent / "model" / "rmt.py"]

PROGRAM = """
import sys

class NoPackage:  # isolated mode still finds a package that is installed beside the libraries
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "rmt":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoPackage())
{cell}

import json
import numpy as np

assert "rmt" not in sys.modules

for case, keywords in json.loads(sys.argv[1]).items():
    model = RMT(**keywords).eval()
    model.load_state_dict(torch.load(f"{{case}}.pt"))
    with torch.no_grad():
        np.savez(f"{{case}}.npz", **{{size: model(torch.from_numpy(x)) for size, x in np.load("images.npz").items()}})
"""


def imports_of_ours(source: str) -> list[str]:
    """The statements that import something of the package, as they stand in the source."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if any(name.split(".")[0] == "rmt" for name in names):
            found.append(ast.get_source_segment(source, node))
    return found


def paste() -> str:
    masa, network = (path.read_text(encoding="utf-8") for path in SOURCES)
    (statement,) = imports_of_ours(network)
    return masa + "\n\n" + network.replace(statement, "from torch.nn import LayerNorm, Linear")


def test_what_the_two_files_import():
    masa, network = (path.read_text(encoding="utf-8") for path in SOURCES)
    assert imports_of_ours(masa) == []
    (statement,) = imports_of_ours(network)
    assert statement.startswith("from rmt.ops import ")
    for source, libraries in ((masa, {"torch"}), (network, {"torch", "timm", "rmt"})):
        roots = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
        }
        assert roots - set(sys.stdlib_module_names) == libraries


def test_pasted_into_one_cell_they_give_the_released_networks_answers(tmp_path):
    cases = {"tiny": TINY, "tiny_token_label": TINY | dict(aux_head=True)}
    stored = {case: np.load(PARITY / f"{case}.npz") for case in cases}
    sizes = {case: sorted({key.split("/")[0] for key in found.files}) for case, found in stored.items()}
    np.savez(tmp_path / "images.npz", **{size: image(*map(int, size.split("x"))) for size in sizes["tiny"]})
    for case, keywords in cases.items():
        model = RMT(**keywords)
        load_official(model, official_weights(case))  # the authors' names become ours
        torch.save(model.state_dict(), tmp_path / f"{case}.pt")
    (tmp_path / "cell.py").write_text(PROGRAM.format(cell=paste()), encoding="utf-8")
    command = [sys.executable, "-I", "cell.py", json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for case in cases:
        answers = np.load(tmp_path / f"{case}.npz")
        for size in sizes[case]:
            expected = stored[case][f"{size}/logits"]
            assert np.linalg.norm(answers[size] - expected) / np.linalg.norm(expected) <= 5e-6
