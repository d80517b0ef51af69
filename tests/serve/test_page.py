"""The page in headless Chromium: what a person does with mouse, keyboard, phone and screen reader. `make test-page`."""

import io
import json
import shutil
import threading

import numpy as np
import pytest
from helpers.served import NAMES, classifier, detector, picture, segmenter
from PIL import Image

from rmt.data.detection.rle import decode
from rmt.serve import server as module
from rmt.serve.app import create_app
from rmt.serve.hosted import Hosted
from rmt.serve.limits import Limits

pytestmark = pytest.mark.optional
sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
MAKE = {"classify": classifier, "detect": detector, "segment": segmenter}
TOKEN = "a long token"


class Running:
    """A server in a thread."""

    def __init__(self, hosted, **options):
        self.listener = module.open_socket("127.0.0.1", 0)
        self.url, started, limits = module.address(self.listener), threading.Event(), Limits()
        app = create_app(hosted, limits, **options)
        self.server = None

        class Remembered(module._Server):
            def __init__(server, *args):
                super().__init__(*args)
                self.server = server

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "_Server", Remembered)
            self.thread = threading.Thread(target=module.serve, args=(app, self.listener, limits, started.set))
            self.thread.start()
            started.wait(30)

    def stop(self):
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def hosted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    return {task: Hosted(make(folder / f"{task}.safetensors"), device="cpu") for task, make in MAKE.items()}


@pytest.fixture(scope="module")
def urls(hosted):
    servers = {task: Running(each) for task, each in hosted.items()}
    servers["token"] = Running(hosted["classify"], token=TOKEN)
    yield {name: server.url for name, server in servers.items()}
    for server in servers.values():
        server.stop()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser, urls):
    """Opens the page of a task; any error of it, and any request to another host, fails the test."""
    contexts, faults = [], []

    def opened(task, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page, own = context.new_page(), (urls[task], "blob:", "data:")
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append("a dialog"))
        page.on("request", lambda request: request.url.startswith(own) or faults.append(request.url))
        page.goto(urls[task])
        sync_api.expect(page.locator("#about")).not_to_have_text("Loading…")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not faults


def upload(page, *data, name="photo.png"):
    page.set_input_files("#file", [{"name": name, "mimeType": "image/png", "buffer": each} for each in data])


def rows(page):
    page.wait_for_selector("#results li")
    return page.locator("#results li").all_inner_texts()


def click(page, x, y):
    box = page.locator("#view").bounding_box()
    page.mouse.click(box["x"] + x * box["width"], box["y"] + y * box["height"])


def test_a_class_is_read_and_its_name_is_text(open_page, hosted):
    page = open_page("classify")
    upload(page, picture(0))
    found = hosted["classify"].predictor.predict(picture(0))[0]
    assert [row.split("\n") for row in rows(page)] == [[p.label, f"{100 * p.probability:.1f} %"] for p in found]
    assert NAMES[1] in " ".join(rows(page)), "the name with HTML in it is shown as it is"
    assert page.locator("main img").count() == 0
    assert page.locator("#status").inner_text() == f"{found[0].label}, {100 * found[0].probability:.1f} %"


def test_a_point_shows_what_each_head_attends_to(open_page):
    page = open_page("classify")
    upload(page, picture(0, (300, 300)))
    rows(page)
    before = page.locator("#view").screenshot()
    click(page, 0.3, 0.6)
    page.wait_for_selector("#heads button")
    text = page.locator("#explain-text").inner_text()
    assert "From the point 90, 180, stage 1" in text and "dashed diamond" in text
    labels = page.locator("#heads button").all_inner_texts()
    assert len(labels) == 2 and all("px far; decay halves at" in label for label in labels)
    assert page.locator("#stage option").count() == 4
    page.locator("#heads button").first.click()
    chosen = page.locator("#view").screenshot()
    assert chosen != before and page.locator("#heads button[aria-pressed=true]").count() == 1
    page.check("#decay")
    assert page.locator("#view").screenshot() != chosen
    page.select_option("#stage", "3")
    assert "stage 4" in page.locator("#explain-text").inner_text()


def test_masks_are_decoded_as_coco_does(open_page, hosted):
    page = open_page("detect")
    upload(page, picture(3))
    page.fill("#threshold", "0")
    found = hosted["detect"].predictor.predict(picture(3))[0]
    assert len(rows(page)) == len(found.boxes) > 0
    runs = "async (runs) => Array.from((await import('/draw.js')).decodeRuns(runs).mask)"
    for mask in found.masks:
        pixels = np.array(page.evaluate(runs, mask)).reshape(56, 40).T
        assert np.array_equal(pixels, decode(mask, 40, 56))
    page.fill("#threshold", "100")
    assert rows(page) == ["No object with this score or more"]


def test_classes_lie_over_the_image_with_an_opacity(open_page, hosted):
    page = open_page("segment")
    upload(page, picture(4))
    assert all("%" in row for row in rows(page))
    first = "() => Array.from(document.getElementById('view').getContext('2d').getImageData(1, 1, 1, 1).data)"
    pixels = {}
    for opacity in (0, 100):
        page.fill("#opacity", str(opacity))
        pixels[opacity] = page.evaluate(first)
    labels = hosted["segment"].predictor.predict(picture(4))[0].numpy()
    if labels[0, 0] != 2:  # not the class that is drawn as the photograph itself
        assert pixels[100][:3] == hosted["segment"].predictor.colours[labels[0, 0]].tolist() != pixels[0][:3]


def test_by_keyboard_alone(open_page):
    page = open_page("classify")
    with page.expect_file_chooser() as chooser:  # from here on: a busy browser takes a moment until it reports choosers
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "file"
        page.keyboard.press("Enter")
    chooser.value.set_files({"name": "a.png", "mimeType": "image/png", "buffer": picture(0)})
    rows(page)
    for _ in range(10):
        if page.evaluate("document.activeElement.id") == "view":
            break
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_selector("#heads button")
    assert "From the point 34, 20" in page.locator("#explain-text").inner_text()  # 0.6 of 56, 0.5 of 40
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('#heads') !== null"):
            break
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.focus("#view")
    page.keyboard.press("Escape")
    assert page.locator("#explain").is_hidden()


@pytest.mark.parametrize("task", MAKE)
def test_a_phone_shows_everything_in_its_width(open_page, task):
    page = open_page(task, viewport={"width": 320, "height": 640}, has_touch=True, is_mobile=True)
    upload(page, picture(0, (400, 900)))
    rows(page)
    page.locator("#view").tap()
    page.wait_for_selector("#heads button")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    beyond = """() => [...document.querySelectorAll("main *")].filter(
        (e) => e.getBoundingClientRect().right > 321 && !e.closest(".unseen")).length"""
    assert page.evaluate(beyond) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("task", MAKE)
def test_axe_finds_nothing(open_page, task, scheme):
    page = open_page(task, color_scheme=scheme)
    assert not _violations(page)
    upload(page, picture(0), picture(1))
    rows(page)
    click(page, 0.5, 0.5)
    page.wait_for_selector("#heads button")
    assert not _violations(page)


def _violations(page):
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in axe.Axe().run(page).response["violations"]]


def test_a_broken_image_gets_a_kind_line_and_the_next_one_an_answer(open_page):
    page = open_page("classify")
    upload(page, b"no image at all", name="holiday.png")
    page.wait_for_selector("#error:not([hidden])")
    text = page.locator("#error").inner_text()
    assert text == (
        "holiday.png cannot be used: image: not an image in a format that can be read. Please try another image."
    )
    assert not _violations(page)
    upload(page, picture(0))
    rows(page)
    assert page.locator("#error").is_hidden()


def test_one_answer_can_be_used_while_another_image_is_computed(open_page):
    page = open_page("classify")
    upload(page, picture(0), name="first.png")
    first = rows(page)
    page.route("**/predict*", lambda route: None)  # the second one is never answered
    upload(page, picture(1), name="second.png")
    page.wait_for_selector("#images button[aria-busy=true]")
    page.get_by_role("button", name="first.png").click()
    assert rows(page) == first
    click(page, 0.5, 0.5)
    page.wait_for_selector("#heads button")
    assert page.locator("#images button[aria-busy=true]").count() == 1


def test_a_busy_server_is_asked_again(open_page):
    page, answers = open_page("classify"), []

    def busy_once(route):
        answers.append(1)
        if len(answers) > 1:
            return route.continue_()
        body = json.dumps({"error": {"code": "busy", "message": "later"}})
        return route.fulfill(status=503, headers={"Retry-After": "1"}, body=body)

    page.route("**/predict*", busy_once)
    upload(page, picture(0))
    assert len(rows(page)) == 3 and len(answers) == 2


def test_answers_can_be_downloaded(open_page):
    page = open_page("detect")
    upload(page, picture(3), name="cells.png")
    page.fill("#threshold", "0")
    count = len(rows(page))
    with page.expect_download() as download:
        page.click("#save-json")
    content = json.loads(download.value.path().read_text())
    assert download.value.suggested_filename == "cells.json"
    assert content["image"] == "cells.png" and content["task"] == "detect" and len(content["objects"]) == count
    assert set(content["objects"][0]) == {"label", "index", "score", "box", "mask"}
    with page.expect_download() as download:
        page.click("#save-png")
    assert Image.open(io.BytesIO(download.value.path().read_bytes())).width >= 56


def test_images_come_by_pasting_and_dropping(open_page):
    page = open_page("classify")
    for event, kind, field in (("paste", "ClipboardEvent", "clipboardData"), ("drop", "DragEvent", "dataTransfer")):
        page.evaluate(
            """([event, kind, field, bytes]) => {
                const data = new DataTransfer();
                data.items.add(new File([new Uint8Array(bytes)], `${event}.png`, { type: "image/png" }));
                document.body.dispatchEvent(new window[kind](event, { [field]: data, bubbles: true }));
            }""",
            [event, kind, field, list(picture(0))],
        )
        rows(page)
    page.wait_for_selector("#images button >> nth=1")
    assert page.get_by_role("button", name="drop.png").count() == 1
    assert page.locator("#camera").get_attribute("capture") == "environment"


def test_a_token_is_asked_for_on_the_page(open_page):
    page = open_page("token")
    assert "Bearer TOKEN" in page.locator("#error").inner_text()
    upload(page, picture(1), name="early.png")  # is computed once the token is there
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    sync_api.expect(page.locator("#about")).to_contain_text("It knows 3 classes")
    assert len(rows(page)) == 3
    upload(page, picture(0))
    assert len(rows(page)) == 3 and page.locator("#token-form").is_hidden()
    assert page.locator("#images button").count() == 2
