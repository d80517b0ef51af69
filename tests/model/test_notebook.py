"""`ops/masa.py` and `model/rmt.py`, pasted into one notebook cell, are the whole network."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
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

keywords, weights, images, answers = sys.argv[1:]
model = RMT(**json.loads(keywords)).eval()
model.load_state_dict(torch.load(weights))
with torch.no_grad():
    np.savez(answers, **{{size: model(torch.from_numpy(x)) for size, x in np.load(images).items()}})
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


@pytest.mark.parametrize(("case", "extra"), [("tiny", {}), ("tiny_token_label", dict(aux_head=True))])
def test_pasted_into_one_cell_they_give_the_released_networks_answers(tmp_path, case, extra):
    stored = np.load(PARITY / f"{case}.npz")
    sizes = sorted({key.split("/")[0] for key in stored.files})
    np.savez(tmp_path / "images.npz", **{size: image(*map(int, size.split("x"))) for size in sizes})
    model = RMT(**TINY, **extra)
    load_official(model, official_weights(case))  # the authors' names become ours
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    (tmp_path / "cell.py").write_text(PROGRAM.format(cell=paste()), encoding="utf-8")
    files = [str(tmp_path / name) for name in ("weights.pt", "images.npz", "answers.npz")]
    command = [sys.executable, "-I", str(tmp_path / "cell.py"), json.dumps(TINY | extra), *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    answers = np.load(tmp_path / "answers.npz")
    assert set(answers.files) == set(sizes)
    for size in sizes:
        expected = stored[f"{size}/logits"]
        assert np.linalg.norm(answers[size] - expected) / np.linalg.norm(expected) <= 5e-6
