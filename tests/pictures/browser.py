"""Pages as Chromium shows them; nothing of it is needed where there is none."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

NAMES = ("chromium", "chromium-browser", "google-chrome")
# WebGL without a GPU.
OPTIONS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
READY = "['ready', 'failed'].includes(document.getElementById('viewer').dataset.state)"


class Opened:
    """A page that is open, with all that it said and asked for."""

    def __init__(self, browser, address, width, scheme):
        self.page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        self.said, self.requests = [], []
        self.page.on("console", lambda message: self.said.append((message.type, message.text)))
        self.page.on("pageerror", lambda error: self.said.append(("error", str(error))))
        self.page.on(
            "dialog", lambda dialog: (self.said.append(("error", "a dialog")), dialog.dismiss())
        )
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(address)

    def wait(self):
        """Until the viewer has done what it was asked for."""
        self.page.wait_for_function(READY, timeout=60_000)
        assert self.page.get_attribute("#viewer", "data-state") == "ready", self.said
        return self

    def pixels(self, pane=0):
        """The canvas of a pane, (rows, columns, 3)."""
        drawn = self.page.locator(".viewer canvas").nth(pane).screenshot()
        return np.asarray(Image.open(io.BytesIO(drawn)).convert("RGB")).astype(int)

    def press(self, *keys):
        for key in keys:
            self.page.locator(".viewer canvas").first.press(key)
            self.wait()
        return self.pixels()

    def values(self):
        return self.page.text_content(".viewer-values")

    def widest(self):
        """By how many pixels the widest table, picture or the page itself leaves the window."""
        return self.page.evaluate(
            "Math.max(document.scrollingElement.scrollWidth - innerWidth, ...[...document"
            ".querySelectorAll('table, img, canvas, section, pre')].map((e) => "
            "e.getBoundingClientRect().right - innerWidth))"
        )

    def assert_silent_and_alone(self):
        """No error on the console, and nothing asked of the network."""
        assert not [text for kind, text in self.said if kind in ("error", "warning")], self.said
        assert {url.partition(":")[0] for url in self.requests} <= {"file", "blob", "data"}


@pytest.fixture(scope="session")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(OPTIONS))
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser):
    """opened(path, width=1000, scheme="light"): the page, closed after the test."""
    pages = []

    def open_page(path, width=1000, scheme="light"):
        pages.append(Opened(browser, path.as_uri(), width, scheme))
        return pages[-1]

    yield open_page
    for one in pages:
        one.page.close()
