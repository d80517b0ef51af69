"""Take a picture of the page of `rmt serve` with an answer and what the heads attend to from a point.

    python scripts/take_screenshots.py rmt_micro airplane.png docs/images/demo-classify.png
    python scripts/take_screenshots.py RUN cells.jpg docs/images/demo-phone.png --width 390 --height 844 --dark

Needs playwright and Chromium. Without an image file of that name, `airplane.png` is drawn.
"""

import argparse
import io
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import sync_playwright


def airplane() -> Image.Image:
    """A drawing that rmt_micro takes for what it is."""
    sky = Image.linear_gradient("L").resize((1920, 1280))
    picture = Image.composite(Image.new("RGB", sky.size, "#cee4f5"), Image.new("RGB", sky.size, "#5696dc"), sky)
    draw = ImageDraw.Draw(picture)
    light, shade, dark = "#eceef2", "#b0b6c0", "#464e5c"
    body = [(300, 700), (420, 620), (1500, 480), (1640, 500), (1660, 530), (1560, 570), (480, 740), (330, 740)]
    belly = [(480, 740), (1560, 570), (1660, 530), (1640, 560), (1500, 610), (520, 770), (350, 745)]
    near, far = [(900, 640), (1150, 600), (980, 1010), (860, 1010)], [(900, 560), (1080, 535), (900, 330), (830, 330)]
    for points, colour in ((body, light), (belly, shade), (near, shade), (far, "#c8ced6")):
        draw.polygon(points, fill=colour)
    draw.polygon([(330, 700), (260, 470), (350, 470), (500, 640)], fill="#285aaa")
    draw.polygon([(340, 715), (180, 700), (150, 740), (420, 735)], fill=shade)
    draw.ellipse((960, 760, 1090, 820), fill=dark)
    draw.polygon([(1530, 500), (1600, 498), (1620, 520), (1545, 525)], fill=dark)
    for window in range(16):
        left, top = 560 + 58 * window, 640 - round(9.2 * window)
        draw.ellipse((left, top, left + 20, top + 20), fill=dark)
    return picture.resize((960, 640), Image.Resampling.LANCZOS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("image", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--width", type=int, default=1040, help="of the window in pixels (1040)")
    parser.add_argument("--height", type=int, default=0, help="of the picture; 0: the whole page (0)")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--at", type=float, nargs=2, default=(0.45, 0.5), help="the point, in fractions (0.45 0.5)")
    options = parser.parse_args()
    command = [sys.executable, "-u", "-m", "rmt.commands.cli", "demo", options.checkpoint, "--no-browser"]
    server = subprocess.Popen([*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = re.search(r"http://\S+", server.stdout.readline())
        assert address is not None
        with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
            image = options.image
            if not image.exists():
                airplane().save(image := Path(folder) / image.name)
            browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
            page = browser.new_page(
                viewport={"width": options.width, "height": options.height or 900},
                color_scheme="dark" if options.dark else "light",
            )
            page.goto(address[0])
            page.set_input_files("#file", image)
            page.wait_for_selector("#results li", timeout=120_000)
            box = page.locator("#view").bounding_box()
            assert box is not None
            x, y = options.at
            page.locator("#view").click(position={"x": x * box["width"], "y": y * box["height"]})
            page.wait_for_selector("#heads button", timeout=120_000)
            page.select_option("#stage", "1")
            page.evaluate("() => window.scrollTo(0, 0)")
            taken = page.screenshot(full_page=not options.height)
            browser.close()
    finally:
        server.terminate()
        server.wait()
    colours = Image.open(io.BytesIO(taken)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    colours.save(options.output, optimize=True)
    print(f"{options.output}: {options.output.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
