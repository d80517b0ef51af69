"""The built site in headless Chromium: axe-core, keyboard, phone, dark mode, offline search. `make test-site`.

`SITE_RECORD=FILE.json` adds what was found to that file, and `SITE_SCREENSHOTS=FOLDER` keeps the pictures of the pages.
"""

import functools
import http.server
import io
import json
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from helpers.documentation import ROOT
from PIL import Image

pytestmark = pytest.mark.optional
sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

SITE = ROOT / "build" / "docs"
PAGES = ["index", "your-boxes", "method", "faq", "howto/weights", "detection", "speed"]
PAGES += ["reference/python", "reference/recipes", "reference/http"]
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
# What lies beyond the right edge of the screen, although nothing around it scrolls.
BEYOND = """() => {
    const scrolls = (e) => e && e !== document.body && (
        ["auto", "scroll", "hidden"].includes(getComputedStyle(e).overflowX) || scrolls(e.parentElement));
    return [...document.querySelectorAll("article *")]
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !scrolls(e))
        .map((e) => e.outerHTML.slice(0, 200));
}"""


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the site in a folder of a server, as on a project's pages."""
    if not (SITE / "index.html").exists():
        pytest.skip("build the site first: make docs")
    handler = functools.partial(_Quiet, directory=str(SITE.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/{SITE.name}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium (Debian: apt install chromium)")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def found():
    """Filled by the tests below, and added to the file of SITE_RECORD."""
    figures = {"pages": len(PAGES), "axe_violations": 0, "requests_to_other_hosts": 0, "wider_than_a_phone": 0}
    figures |= {"search_results_offline": {}}
    yield figures
    if path := os.environ.get("SITE_RECORD"):
        file = Path(path)
        recorded = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        text = json.dumps(recorded | {"in_chromium": figures}, indent=2, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")


@pytest.fixture
def open_page(browser, site, found):
    """Opens a page of the site; an error of a script, and a request to another host, fail the test."""
    contexts, faults = [], []

    def opened(name, base=site, offline=False, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        context.set_offline(offline)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(f"failed: {request.url}"))

        def see(request):
            if not request.url.startswith((base, "data:", "blob:")):
                found["requests_to_other_hosts"] += 1
                faults.append(request.url)

        page.on("request", see)
        page.goto(base + name)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def test_options_can_be_copied(site):
    """No typographic dash or quotation mark takes the place of two hyphens or of a shell's quotation marks."""
    for file in SITE.rglob("*.html"):
        assert re.findall(r"(?<![\w–])–[a-z]+|[‘’]\w*/", file.read_text(encoding="utf-8")) == [], file


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing(open_page, found, name, scheme):
    page = open_page(f"{name}.html", color_scheme=scheme, reduced_motion="reduce")
    response = axe.Axe().run(page).response
    violations = [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in response["violations"]]
    found["axe_violations"] += len(violations)
    found["axe"] = response["testEngine"]["version"]
    assert len(response["passes"]) > 10 and violations == []


@pytest.mark.parametrize("name", PAGES)
def test_a_phone_shows_the_page_in_its_width(open_page, found, name):
    page = open_page(f"{name}.html", **PHONE)
    width, beyond = page.evaluate("document.documentElement.scrollWidth"), page.evaluate(BEYOND)
    found["wider_than_a_phone"] += width > 390 or bool(beyond)
    assert width == 390 and beyond == []
    assert float(page.evaluate("parseFloat(getComputedStyle(document.querySelector('article p')).fontSize)")) >= 14
    picture = page.screenshot()
    greys = Image.open(io.BytesIO(picture)).convert("L").histogram()
    assert sum(count > 0 for count in greys) > 16, "an empty screen"
    if folder := os.environ.get("SITE_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / f"{name.replace('/', '-')}.png").write_bytes(picture)


def test_the_list_of_pages_opens_on_a_phone(open_page):
    page = open_page("index.html", **PHONE)
    link = page.locator(".sidebar-tree a", has_text="Your own boxes")
    sync_api.expect(link).not_to_be_in_viewport()
    page.locator("label[for=__navigation]:visible").first.tap()
    sync_api.expect(link).to_be_in_viewport()
    link.tap()
    sync_api.expect(page).to_have_title("Your own boxes: detection - rmt-vision")


def test_by_keyboard_the_first_key_skips_to_the_text(open_page):
    page = open_page("method.html")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#furo-main-content")


@pytest.mark.parametrize("served", [True, False], ids=["served", "opened-as-files"])
@pytest.mark.parametrize(
    ("words", "target"), [("half distance", "method.html"), ("first release", "howto/weights.html"), ("cvat", "")]
)
def test_search_works_without_a_network(open_page, site, found, words, target, served):
    page = open_page("index.html", base=site if served else f"{SITE.as_uri()}/", offline=not served)
    page.fill("input[name=q]", words)
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results li a")
    sync_api.expect(page.locator("#search-results .search-summary")).to_contain_text("found", ignore_case=True)
    links = page.locator("#search-results li a").evaluate_all("all => all.map((one) => one.getAttribute('href'))")
    found["search_results_offline"][words] = len(links)
    assert any(link.startswith(target) for link in links)
