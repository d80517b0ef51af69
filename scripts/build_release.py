"""Build the sdist and the wheel of what git tracks, with a description whose links work on PyPI, and check both.

    python scripts/build_release.py --repository https://github.com/OWNER/NAME --output dist

Needs `pip install build twine`. README.md links to files beside it, which PyPI's page does not have: in the built
packages the links point to the repository, at the tag of the version (vX.Y.Z), whose addresses the page names, too.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^\[\]]*)\]\((?!https?://|#)([^()\s]+)\)")
NOT_IN_SDIST = (".ci/", ".github/", ".gitignore", ".pre-commit-config.yaml", ".gitattributes")


def absolute_links(readme: str, repository: str, version: str) -> str:
    """README.md with its relative links pointing to files of the repository; images to their bytes."""

    def replace(link: re.Match[str]) -> str:
        image, text, target = link.groups()
        return f"{image}[{text}]({repository}/{'raw' if image else 'blob'}/v{version}/{target})"

    return LINK.sub(replace, readme)


def urls(repository: str, version: str) -> str:
    """The table of the project's addresses for pyproject.toml."""
    pages = {
        "Source": "",
        "Documentation": f"/tree/v{version}/docs",
        "Changelog": f"/blob/v{version}/CHANGELOG.md",
        "Issues": "/issues",
    }
    return "[project.urls]\n" + "".join(f'{name} = "{repository}{page}"\n' for name, page in pages.items())


def check_contents(sdist: Path, wheel: Path, files: list[str]) -> None:
    """Exit with one line unless the sdist has every tracked file and the wheel every file of the package."""
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    wanted = [file for file in files if not file.startswith(NOT_IN_SDIST)]
    if missing := sorted(set(wanted) - packed):
        raise SystemExit(f"{sdist.name} lacks {len(missing)} files, such as {missing[0]}: see MANIFEST.in")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    package = {file.removeprefix("src/") for file in files if file.startswith("src/")}
    if missing := sorted(package - packed):
        raise SystemExit(f"{wheel.name} lacks {len(missing)} files, such as {missing[0]}: see package-data")
    texts = [name for name in packed if ".dist-info/licenses/" in name]
    if len(texts) != 2:
        raise SystemExit(f"{wheel.name} has the texts of {len(texts)} licences, not of 2: {texts}")


def build(repository: str, output: Path) -> None:
    version = re.findall(r'"(.+)"', (ROOT / "src/rmt/_version.py").read_text())[0]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = [file for file in listed.split("\0") if file and (ROOT / file).is_file()]
    with tempfile.TemporaryDirectory() as folder:
        tree, built = Path(folder, "tree"), Path(folder, "dist")
        for file in files:
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, tree / file)
        readme, project = tree / "README.md", tree / "pyproject.toml"
        readme.write_text(absolute_links(readme.read_text(), repository, version))
        project.write_text(project.read_text() + "\n" + urls(repository, version))
        subprocess.run([sys.executable, "-m", "build", "--outdir", str(built), str(tree)], check=True)
        (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(sdist), str(wheel)], check=True)
        check_contents(sdist, wheel, files)
        output.mkdir(parents=True, exist_ok=True)
        for file in (sdist, wheel):
            shutil.copyfile(file, output / file.name)
            print(output / file.name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--repository", required=True, help="address of the public repository, without a slash at the end"
    )
    parser.add_argument("--output", type=Path, default=Path("dist"), help="folder for the two files; default: dist")
    options = parser.parse_args()
    build(options.repository.rstrip("/"), options.output)
