"""The packages for PyPI: links of the description, the project's addresses, and files that are missing."""

import io
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers.scripts_under_test import ROOT, script

build_release = script("build_release")
REPOSITORY = "https://example.org/rmt"


def test_relative_links_point_to_the_repository():
    text = "[a](docs/a.md#b), ![c](docs/images/c.png), [d](https://d.org/e), [f](#g)"
    wanted = f"[a]({REPOSITORY}/blob/v1.2.3/docs/a.md#b), ![c]({REPOSITORY}/raw/v1.2.3/docs/images/c.png), "
    assert build_release.absolute_links(text, REPOSITORY, "1.2.3").startswith(f"{wanted}[d](https://d.org/e), [f](#g)")


def test_every_link_of_the_readme_leads_somewhere():
    readme = build_release.absolute_links((ROOT / "README.md").read_text(), REPOSITORY, "1.2.3")
    targets = re.findall(r"\]\(([^()\s]+)\)", readme)
    assert len(targets) > 10 and all(target.startswith(("https://", "#")) for target in targets)
    files = [target.partition("v1.2.3/")[2].partition("#")[0] for target in targets if target.startswith(REPOSITORY)]
    assert files and all((ROOT / file).exists() for file in files)


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
