"""Photograph a page that has a viewer, as Chromium shows it.

    python benchmarks/page_picture.py predictions/predictions.html [--keys e] [--output FILE]

It needs playwright and a Chromium (`apt install chromium`). The documentation's picture is of the
demo preset's network and of Phantom_002, Phantom_005 and Phantom_009, copied to the folder `three`:

    segmamba train --preset demo
    segmamba predict --checkpoint Results/SegMamba_Run01 \\
        --input three --labels brats2018 --output out --html --uncertainty
    python benchmarks/page_picture.py out/predictions.html --height 980
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SOFTWARE = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
READY = "document.getElementById('viewer').dataset.state === 'ready'"


def photograph(page: Path, output: Path, keys: str, width: int, height: int) -> None:
    """Open a page, press keys in its viewer, and save what is in the window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = next(filter(None, map(shutil.which, CHROMIUM)), None)
        browser = playwright.chromium.launch(executable_path=path, args=list(SOFTWARE))
        shown = browser.new_page(viewport={"width": width, "height": height})
        shown.goto(page.resolve().as_uri())
        shown.wait_for_function(READY, timeout=60_000)
        for key in keys:
            shown.locator(".viewer canvas").first.press(key)
            shown.wait_for_function(READY, timeout=60_000)
        shown.locator("body").click(position={"x": 2, "y": 2})  # no frame around the canvas
        shown.wait_for_timeout(500)
        shown.screenshot(path=output)
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("--keys", default="", help="pressed one after another, e.g. 2e")
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=900)
    parser.add_argument("--output", type=Path, default=Path("docs/images/viewer.png"))
    options = parser.parse_args()
    photograph(options.page, options.output, options.keys, options.width, options.height)
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
