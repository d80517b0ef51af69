"""What `benchmarks/kernels.py` measures: on a small grid, by Triton's interpreter, each kernel equals its reference."""

import json
from pathlib import Path

import pytest
import torch
from helpers.scripts_under_test import script
from torch import Tensor, nn

module = script("kernel_problems", "benchmarks")

GRID = (2, 5, 6)


@pytest.fixture
def _on_the_cpu(monkeypatch):
    monkeypatch.setattr(nn.Module, "cuda", lambda self: self)


@pytest.mark.usefixtures("_on_the_cpu")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the program itself compares them on a GPU")
@pytest.mark.parametrize(
    "problems",
    [
        lambda: module.row_pass(GRID, 2, 16),
        lambda: module.layer_norm(GRID, 16),
        *(
            pytest.param(make, marks=pytest.mark.slow)  # tests/ops/test_triton.py has these kernels in other sizes
            for make in (
                lambda: module.attention(GRID, 2, 16),
                lambda: module.attention(GRID, 2, 16, decomposed=False),
                lambda: module.convolution(GRID, 16, 5),
                lambda: module.feed_forward(GRID, 16),
            )
        ),
    ],
    ids=["rows", "norm", "decomposed", "full", "convolution", "feed-forward"],
)
def test_kernels_equal_their_references(problems):
    for problem in problems():
        inputs = [torch.randn(shape) for shape in problem.inputs]
        found, exact = problem.ours(*inputs), problem.reference(*(t.double() for t in inputs))
        pairs = [(found, exact)] if isinstance(found, Tensor) else list(zip(found, exact, strict=True))
        for a, b in pairs:
            assert (a.double() - b).norm() <= 1e-5 * b.norm(), problem.name


@pytest.mark.usefixtures("_on_the_cpu")
def test_the_committed_run_has_these_problems():
    """Their names, and the lower bounds that follow from bytes and operations."""
    path = Path(__file__).parents[2] / "benchmarks" / "gpu" / "kernels.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    listed = list(module.problems(content["batch"]))
    assert [entry["problem"] for entry in content["results"]] == [problem.name for problem in listed]
    for entry, problem in zip(content["results"], listed, strict=True):
        moved = problem.bytes(getattr(torch, entry["dtype"]))
        floor = max(moved / content["bandwidth"], problem.operations / content["rate"])
        assert entry["floor"] == pytest.approx(floor, rel=1e-12)
