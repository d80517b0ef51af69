"""Build the site from docs/ into build/docs, with warnings as errors, and check what was built.

    python scripts/build_docs.py [--record benchmarks/site.json]

The site needs no network: pages, styles, scripts, equations and the search index are local files, and all links between
them are relative, so that the folder works wherever it is served from, or opened as files. Checked in the built pages:
nothing is loaded from another host, every internal link leads to a file and an anchor that exist, and the reference
describes every public name and every name of `rmt` that a page imports or mentions.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

ROOT = Path(__file__).parents[1]
LOADED = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "link": "href",
}


class Page(HTMLParser):
    """What a page loads, what it links to, and its anchors."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag in LOADED and LOADED[tag] in values and values.get("rel") not in ("canonical", "prev", "next", "search"):
            self.loaded.append(values[LOADED[tag]])
        self.loaded += re.findall(r"url\(([^)]*)\)", values.get("style", ""))


def external_assets(site: Path) -> list[str]:
    """Whatever the pages and styles load from another host, as "file: address"."""
    found = []
    for file in sorted(site.rglob("*.html")):
        found += [f"{file.relative_to(site)}: {address}" for address in Page(file).loaded if is_external(address)]
    for file in sorted(site.rglob("*.css")):
        addresses = re.findall(r"(?:url\(|@import )\s*[\"']?([^\"')\s]+)", file.read_text(encoding="utf-8"))
        found += [f"{file.relative_to(site)}: {address}" for address in addresses if is_external(address)]
    return found


def is_external(address: str) -> bool:
    return bool(urlsplit(address).netloc)  # also of //host/path


def documented(site: Path) -> tuple[set[str], set[str]]:
    """The names of `rmt` that are public or that a page mentions, and those of them that the reference lacks."""
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    from names import all_names, mentioned

    anchors = {anchor for file in (site / "reference").glob("*.html") for anchor in Page(file).anchors}
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    names = all_names().union(*(mentioned(file.read_text(encoding="utf-8")) for file in pages))
    return names, names - anchors


def broken_links(site: Path) -> list[str]:
    """Internal links, and files to load, that lead nowhere or start at the server's root, as "file: address"."""
    pages = {file.resolve(): Page(file) for file in site.rglob("*.html")}
    found = []
    for file, page in pages.items():
        for address in page.links + page.loaded:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "data", "mailto", "javascript") or parts.netloc:
                continue
            path, anchor = urldefrag(address)
            path = unquote(path.partition("?")[0])
            target = (file.parent / path).resolve() if path else file
            missing = not target.is_file() or (
                anchor and target in pages and unquote(anchor) not in pages[target].anchors
            )
            if path.startswith("/") or missing:
                found.append(f"{file.relative_to(site.resolve())}: {address}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "docs", help="folder of the site")
    parser.add_argument("--record", type=Path, help="also write the figures to this JSON file; its other entries stay")
    args = parser.parse_args()
    shutil.rmtree(args.output, ignore_errors=True)
    start = time.monotonic()
    sphinx = [sys.executable, "-m", "sphinx", "-b", "html", "--fail-on-warning", "--keep-going", "--quiet"]
    code = subprocess.run([*sphinx, str(ROOT / "docs"), str(args.output)]).returncode
    seconds = time.monotonic() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    if not (args.output / "index.html").exists():
        return code or 1
    shutil.rmtree(args.output / ".doctrees", ignore_errors=True)
    pages = len(list(args.output.rglob("*.html")))
    outside, broken = external_assets(args.output), broken_links(args.output)
    public, missing = documented(args.output)
    for line in outside:
        print(f"loaded from another host: {line}")
    for line in broken:
        print(f"leads nowhere: {line}")
    for line in sorted(missing):
        print(f"not in the reference: {line}")
    print(
        f"{args.output}: {pages} pages in {seconds:.0f} s, {len(outside)} external assets, {len(broken)} broken links, "
        f"{len(public - missing)} of {len(public)} names described"
    )
    if args.record:
        figures = dict(pages=pages, seconds=round(seconds), cpu_seconds=round(used.ru_utime + used.ru_stime))
        figures |= dict(warnings_are_errors=True, sphinx_exit_code=code)
        figures |= dict(external_assets=len(outside), broken_links=len(broken))
        figures |= dict(public_names=len(public), public_names_described=len(public - missing))
        recorded = json.loads(args.record.read_text(encoding="utf-8")) if args.record.exists() else {}
        args.record.write_text(json.dumps(recorded | figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if code or outside or broken or missing else 0


if __name__ == "__main__":
    sys.exit(main())
