"""The packages for PyPI: links of the description, the project's addresses, and files that are missing."""

import io
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers.scripts_under_test import ROOT, script

build_release = script("build_release")
REPOSITORY = "https://example.org/rmt"


def test_relative_links_point_to_the_repository():
    readme = build_release.absolute_links((ROOT / "README.md").read_text(), REPOSITORY, "1.2.3")
    assert f"[docs/export.md]({REPOSITORY}/blob/v1.2.3/docs/export.md)" in readme
    assert f"]({REPOSITORY}/raw/v1.2.3/docs/images/quickstart.png)" in readme
    assert "(https://arxiv.org/abs/2309.11523)" in readme and "](docs/" not in readme and "](benchmarks/" not in readme
    linked = [line.partition("v1.2.3/")[2].partition(")")[0] for line in readme.split("](") if "v1.2.3/" in line]
    assert len(linked) > 10 and all((ROOT / file).is_file() for file in linked)


def test_the_table_of_addresses_completes_the_project():
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(f"{text}\n{build_release.urls(REPOSITORY, '1.2.3')}")["project"]
    assert project["urls"]["Changelog"] == f"{REPOSITORY}/blob/v1.2.3/CHANGELOG.md"
    assert project["license"] == "Apache-2.0 AND MIT"
    assert all((ROOT / file).is_file() for file in project["license-files"])


def packages(folder: Path, sdist: list[str], wheel: list[str]) -> tuple[Path, Path]:
    with tarfile.open(folder / "s.tar.gz", "w:gz") as archive:
        for name in sdist:
            archive.addfile(tarfile.TarInfo(f"rmt-1/{name}"), io.BytesIO())
    with zipfile.ZipFile(folder / "w.whl", "w") as archive:
        for name in wheel:
            archive.writestr(name, "")
    return folder / "s.tar.gz", folder / "w.whl"


def test_a_missing_file_is_named(tmp_path):
    files = [".ci/run", "README.md", "src/rmt/a.cpp", "tests/helpers/x.py"]
    texts = ["rmt-1.dist-info/licenses/LICENSE", "rmt-1.dist-info/licenses/src/LICENSE"]
    build_release.check_contents(*packages(tmp_path, files[1:], ["rmt/a.cpp", *texts]), files)
    for sdist, wheel, message in (
        (files[1:3], ["rmt/a.cpp", *texts], r"lacks 1 files, such as tests/helpers/x\.py"),
        (files[1:], texts, r"lacks 1 files, such as rmt/a\.cpp"),
        (files[1:], ["rmt/a.cpp", texts[0]], "the texts of 1 licences, not of 2"),
    ):
        with pytest.raises(SystemExit, match=message):
            build_release.check_contents(*packages(tmp_path, sdist, wheel), files)
