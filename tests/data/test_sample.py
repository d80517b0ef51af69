"""The built-in sample: what it claims to hold, and that the script makes it again."""

import hashlib
import importlib.util
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rmt.data.splits import SAMPLE, open_evaluation_split

ROOT = Path(__file__).parents[2]
SOURCE = Path("/usr/share/datasets/fashion-mnist")
needs_source = pytest.mark.skipif(not SOURCE.is_dir(), reason="needs the Debian package dataset-fashion-mnist")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_sample", ROOT / "scripts" / "make_sample.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("split", "per_class"), [("train", 800), ("test", 200)])
def test_classes_are_balanced_and_images_readable(split: str, per_class: int):
    sample = open_evaluation_split("sample", split=split).images
    assert sample.classes[0] == "T-shirt/top"
    assert sample.classes[9] == "Ankle boot"
    assert np.bincount(sample.labels).tolist() == [per_class] * 10
    for i in range(0, len(sample), 97):
        assert sample.load(i).size == (28, 28)


def test_files_are_those_of_the_provenance_and_small():
    sums = dict(re.findall(r"^    (\w{64})  (\S+)$", (SAMPLE / "PROVENANCE.md").read_text(), re.M)[-2:])
    files = sorted(SAMPLE.glob("*.parquet"))
    assert {hashlib.sha256(file.read_bytes()).hexdigest(): file.name for file in files} == sums
    assert sum(file.stat().st_size for file in files) <= 6_000_000
    assert "Zalando" in (SAMPLE / "LICENSE").read_text()


@needs_source
def test_pixels_are_the_originals(script: ModuleType):
    sample = open_evaluation_split("sample").images
    images, labels = (script.read_idx(SOURCE / f"t10k-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1"))
    chosen = script.first_of_each_class(labels, 200)
    np.testing.assert_array_equal(sample.labels, labels[chosen])
    for i in range(0, 2000, 53):
        np.testing.assert_array_equal(np.asarray(sample.load(i))[..., 0], images[chosen[i]])


@needs_source
def test_the_script_makes_the_same_bytes_again(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pinned = dict(re.findall(r"^(\w+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    if any(version(name) != pinned[name] for name in ("pillow", "pyarrow", "datasets")):
        pytest.skip("other versions compress differently")
    # the test images only, which are a fifth of the work
    monkeypatch.setattr(script, "SPLITS", {"test": script.SPLITS["test"]})
    script.pack(SOURCE, tmp_path)
    name = "test-00000-of-00001.parquet"
    assert (tmp_path / name).read_bytes() == (SAMPLE / name).read_bytes()


def test_an_idx_file_of_another_kind_is_refused(script: ModuleType, tmp_path: Path):
    import gzip

    (tmp_path / "x.gz").write_bytes(gzip.compress(b"\0\0\x0d\x01\0\0\0\0"))
    with pytest.raises(SystemExit, match="not an IDX file"):
        script.read_idx(tmp_path / "x.gz")
